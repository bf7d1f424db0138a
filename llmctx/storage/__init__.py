"""The table: engine, columns, reflection of adopted tables, filters, queries, retention.

Knows SQLAlchemy and every shape of the table. Creating and altering the table belongs to `migrate` (retention makes its
partitions), storing calls to `delivery`.
"""
