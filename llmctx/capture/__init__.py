"""What LangChain tells of a call: handler, open calls, payloads."""
