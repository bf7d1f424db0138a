from llmctx import amend, bind, carry, current

with bind(session_id="nightly-report", user_id="u-17"):  # jobs, scripts, tests
    assert current().user_id == "u-17"
    amend(session_id="weekly-report")  # what is learned later
    assert current().session_id == "weekly-report"
    whose = carry(lambda: current().user_id)  # bound to this scope, for an executor or a thread

assert whose() == "u-17"
