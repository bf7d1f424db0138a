"""The ground: errors, the row's fields, guards, counters of failures, locks, threads, fork and exit hooks.

Standard library only: `import llmctx` must stay fast. It knows nothing of identity, LangChain or the database.
"""
