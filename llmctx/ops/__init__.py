"""Operations on rows that are there: backfill, erase, export, recompute; and doctor, which checks an installation.

Each is a Python function over settings; the command line only parses and prints. Nothing here runs in a request.
"""
