import re

from llmctx.calllog import CallLog


def without_room_numbers(text: str) -> str:
    return re.sub(r"\broom \d+", "room [redacted:room]", text, flags=re.IGNORECASE)


call_log = CallLog(redact_functions=[without_room_numbers])
