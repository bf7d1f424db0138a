"""Secrets and personal data are taken out of texts, and what they were is put in their place: `[redacted:email]`.

A rule is a file named for what it finds: `secrets.py` and the files that it lists for secrets, `pii.py` and those that
it lists for personal data. `redactor.py` applies them all to texts, parts of texts and whole structures.
"""

from llmctx.delivery.redact.custom import RedactionFailed
from llmctx.delivery.redact.redactor import EDGE, KINDS, Redactor

__all__ = ["EDGE", "KINDS", "RedactionFailed", "Redactor"]
