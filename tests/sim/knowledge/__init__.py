"""The knowledge log in the simulator: nodes with disks and clocks of their own, week-long absences, and authors that lie."""
