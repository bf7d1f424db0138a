"""Whoever says who he is, is believed: the header `x-user` stands for a token."""

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(headers: dict[bytes, bytes]) -> Auth.types.MinimalUserDict:
    user = headers.get(b"x-user", b"").decode()
    if not user:
        raise Auth.exceptions.HTTPException(status_code=401, detail="no user")
    return {"identity": user}
