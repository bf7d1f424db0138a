"""PostgreSQL and SQLite: connect, learn the shape of the host's table, and insert batches that fit it.

`destination.py` is the `Destination`; `connection.py` the pool and its deadlines; `table_shape.py` what the table looks
like and which values it takes (`charset.py`: in which encoding); `insert.py` how a batch gets in.
"""

from llmctx.delivery.destinations.sql.destination import SqlDestination

__all__ = ["SqlDestination"]
