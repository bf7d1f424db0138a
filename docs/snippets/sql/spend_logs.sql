INSERT INTO biz_agent_llm_call_logs
    (call_id, created_at, finished_at, latency_ms, model, provider, user_id, session_id,
     prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_source, success, status, response_id)
SELECT md5(request_id)::uuid, "startTime" AT TIME ZONE 'UTC', "endTime" AT TIME ZONE 'UTC',
       (extract(epoch FROM "endTime" - "startTime") * 1000)::int,
       coalesce(nullif(model, ''), 'unknown'), nullif(custom_llm_provider, ''), nullif(end_user, ''), session_id,
       prompt_tokens, completion_tokens, total_tokens, spend::numeric(18, 9), 'provider',
       status IS DISTINCT FROM 'failure', CASE WHEN status = 'failure' THEN 'error' ELSE 'ok' END, request_id
FROM "LiteLLM_SpendLogs"
ON CONFLICT DO NOTHING;
