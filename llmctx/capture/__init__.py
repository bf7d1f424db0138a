"""Calls as LangChain reports them: the handler, open calls and their ends, and calls recorded by hand.

Runs in the caller's thread, so it waits for no lock and no I/O, and raises nothing into the application. It knows
LangChain's events, but neither the database nor the journal. `payload/` alone reads LangChain's objects.
"""
