"""The patients' bearer tokens: an id and a signature over it."""

from __future__ import annotations

import hashlib
import hmac


def token_for(patient: str, secret: str) -> str:
    """The token that says: this is `patient`."""
    return f"{patient}.{hmac.new(secret.encode(), patient.encode(), hashlib.sha256).hexdigest()}"


def patient_of(token: str, secret: str) -> str | None:
    """Whose token it is; None for one that we have not signed."""
    patient = token.partition(".")[0]
    return patient if hmac.compare_digest(token.encode(), token_for(patient, secret).encode()) else None
