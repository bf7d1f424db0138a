"""The patients' bearer tokens: an id and a signature over it."""

from __future__ import annotations

import hashlib
import hmac


def token_for(patient: str, secret: str) -> str:
    """Return a signed token for `patient`."""
    return f"{patient}.{hmac.new(secret.encode(), patient.encode(), hashlib.sha256).hexdigest()}"


def patient_of(token: str, secret: str) -> str | None:
    """Return the patient of a token; None if the signature is wrong."""
    patient = token.partition(".")[0]
    return patient if hmac.compare_digest(token.encode(), token_for(patient, secret).encode()) else None
