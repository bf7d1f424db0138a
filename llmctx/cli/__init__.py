"""The command line: parse, ask the floors below, print. One file a verb, named like it.

`options.py` holds what verbs share, `output.py` alone prints. Data goes to stdout, messages to stderr; every verb has
`--json`. Exit codes: 0 fine, 1 a finding, 2 usage, 3 no database. No verb computes what a Python caller could not ask.
"""

from llmctx.cli.main import app, run

__all__ = ["app", "run"]
