"""The table: engine, columns, queries, retention."""
