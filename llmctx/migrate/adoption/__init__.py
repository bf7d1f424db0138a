"""Reconcile a table that is there already with what a revision wants, and lead it back.

The plan is made from the table as it stands: columns are added, nullable and without a default, so nothing is
rewritten; rows, columns, keys and tables that refer to it stay. What was added is marked by the column's comment, in
the same transaction, and by the names of indexes: so a break at any step is mended by running again, and a downgrade
takes away what bears the mark and nothing else.

    inspect.py     the table as it stands, asked of PostgreSQL's catalog
    checks.py      what suits llmctx, what stands in the way, what one should know before
    plan.py        the steps up
    undo.py        the steps back
    execute.py     how steps are taken beside writers
    offline.py     the same as a script, for a table that cannot be looked at
    revision.py    what the files of alembic/versions call
"""
