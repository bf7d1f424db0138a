"""The table: engine, columns, reflection of adopted tables, filters, queries, retention.

Knows SQLAlchemy and every shape of the table. It creates and alters nothing (`migrate` does) and stores no calls
(`delivery` does).
"""
