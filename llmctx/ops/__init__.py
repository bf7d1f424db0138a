"""What people do with the rows that are there: backfill, erase, export, recompute, doctor."""
