"""Batches into PostgreSQL or SQLite."""
