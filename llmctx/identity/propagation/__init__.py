"""How a scope follows work that was handed on: threads, executors and processes (`threads.py`), queues (`queues.py`).

Patches the standard library only for `CallLog(carry=True)`, and removes its patches again. It carries llmctx's scope
alone, never the application's other context variables.
"""
