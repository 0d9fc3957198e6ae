"""Jobs from real life that come with the fleet."""
