"""The identity of calls: scopes, the sources of identity in their order of precedence, and how a scope travels.

Decides from what it is given and never guesses a user. It imports no framework and neither reads nor writes rows;
LangChain's events reach it through `capture`, requests through `middleware.py`, nodes through `graph`.
"""
