from llmctx import bind
from llmctx.calllog import CallLog


def transcribe(call_log: CallLog, file: str) -> str:
    with call_log.record(model="whisper-1", prompt=file, provider="openai") as call:
        text = "I have had a headache since Monday."  # what your client returns
        call.set(response=text, prompt_tokens=310, completion_tokens=9)
    return text


def job(call_log: CallLog) -> str:
    with bind(user_id="ann", session_id="v-1"):
        return transcribe(call_log, "visit-07.wav")
