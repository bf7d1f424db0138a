"""LangChain's objects -> fields of a row: messages, token usage, errors, snapshots; all providers' shapes end up alike.

Pure functions without state or I/O. What cannot be read costs its own field, never the row.
"""
