"""Whoever says who he is, is believed: the header `x-user` stands for a token."""

from collections.abc import Mapping
from typing import Any

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(headers: Mapping[Any, Any]) -> Auth.types.MinimalUserDict:
    user = headers.get("x-user") or headers.get(b"x-user", b"").decode()  # Aegra's are texts
    if not user:
        raise Auth.exceptions.HTTPException(status_code=401, detail="no user")
    return {"identity": user}
