"""The journal in a PostgreSQL database, for those who have one: the same interface, and the same promises.

`journal` has the bookkeeping and the commits, `database` the one connection and what its errors mean, `schema` the tables and
how they are read and judged, `witness` the small file by which a node knows that its journal is elsewhere.

A commit is a transaction. The transaction's commit is sent only when everything before it was answered: so a connection that breaks
before that has left nothing in doubt, and is made anew; one that breaks after it ends the process, as a failed sync does.
"""

from swarm.errors import ConfigError

try:
    import psycopg as _psycopg  # noqa: F401
except ImportError:
    raise ConfigError(
        "ledger.journal_url names a database, and what speaks to PostgreSQL is not installed here",
        hint="pip install 'nanoswarm[postgres]'",
    ) from None
