"""The node's journal: one append-only log on disk for all its consensus groups (promise 3 of the design).

How a node uses it::

    journal = Journal.open(RealFiles(directory), JournalId(fleet, node), JournalConfig(bytes_max=settings.journal_bytes))
    raft = RaftNode(…)
    for group, recovered in journal.take_recovered().items():   # what is on disk, synced again before it is said
        raft.create(now, group, recovered, …)
    writer = JournalWriter(journal, loop, synced, space)        # a thread; everything below is called in the loop
    writer.submit(sync.number, sync.writes)                     # for each Sync of RaftNode.take()
    def synced(number, again):                                  # all up to `number` is on disk, but for the groups `again`,
        for group, recovered in again.items():                  # which have no space, or have rotted: as they are on disk
            raft.restart(now, group, recovered, …)
        raft.synced(now, number)
    def space(full): raft.space(now, full)                      # after each restart, and when there is space again
    room = writer.reserve(bytes)                                # at acceptance: None is "not accepted"; room.release() later
    if writer.congested: …                                      # propose nothing, read no links, until it is not
    await writer.close()                                        # what waits is written, and the directory unlocked

A failed write or sync ends the process with `ExitCode.SYSTEM` (`fatal` can be given in its place, for tests). Settings:
`ledger.journal_bytes` (1 GiB; at least four segments of 16 MiB). A directory whose node had a journal before is opened with
`create=False`: a journal that is gone is a lost disk, and the node needs a new identity.
"""
