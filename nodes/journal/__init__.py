"""The node's journal: one append-only log on disk for all its consensus groups (promise 3 of the design).

How a node uses it::

    journal = Journal.open(RealFiles(directory), JournalId(fleet, node), JournalConfig(bytes_max=settings.journal_bytes_max))
    raft = RaftNode(…)
    for group, recovered in journal.take_recovered().items():   # what is on disk, synced again before it is said
        raft.create(now, group, recovered, …)
    writer = JournalWriter(journal, loop, synced, space)        # a thread; everything below is called in the loop
    writer.submit(sync.number, sync.writes)                     # for each Sync of RaftNode.take()
    def synced(number, refused):                                # all up to `number` is on disk, but for `refused`,
        for group, recovered in refused.items():                # for which there was no space: they are as before
            raft.restart(now, group, recovered, …)
        raft.synced(now, number)
    def space(full): raft.space(now, full)
    room = writer.reserve(bytes)                                # at acceptance: None is "not accepted"; room.release() later
    if writer.congested: …                                      # propose nothing, read no links, until it is not
    await writer.close()                                        # what waits is written, and the directory unlocked

A failed write or sync ends the process with `ExitCode.SYSTEM` (`fatal` can be given in its place, for tests). Rot that
is found while the process runs is told to `rotten(groups)`; at the next start these groups are found damaged.
"""
