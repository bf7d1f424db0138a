from fastapi.testclient import TestClient
from streaming import app  # yours


def test_every_call_has_its_user(llm_calls):
    with TestClient(app) as client:
        client.get("/stream", params={"question": "Hello"}, headers={"x-user": "ann"})
    llm_calls.assert_all_attributed()
    assert [call.user_id for call in llm_calls.records] == ["ann"]
