UPDATE biz_agent_llm_call_logs l SET prompt_snapshot = coalesce(l.prompt_snapshot, m.prompt_snapshot),
    response_snapshot = coalesce(l.response_snapshot, m.response_snapshot),
    reasoning_snapshot = coalesce(l.reasoning_snapshot, m.reasoning_snapshot)
FROM biz_agent_llm_call_logs_messages m WHERE m.call_id = l.call_id AND m.created_at = l.created_at;
DROP TABLE biz_agent_llm_call_logs_messages;
