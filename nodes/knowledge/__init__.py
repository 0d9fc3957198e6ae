"""The knowledge log of a running node: on disk (`store`), told to its peers (`shell`), and asked by people (`answers`).

`swarm.protocol.knowledge` says what knowledge is. All of it runs in one thread of its own (`desk`), so that neither a disk nor a large
merge holds up the node's loop; what came in is written down before anything about it goes out.
"""
