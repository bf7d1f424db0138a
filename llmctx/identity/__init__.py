"""Whose call it is: scopes, registry, resolution, and how a scope travels."""
