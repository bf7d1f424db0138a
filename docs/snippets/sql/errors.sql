SELECT status, error_code, model, count(*) AS calls, max(error_message) AS example
FROM biz_agent_llm_call_logs
WHERE status <> 'ok' AND created_at >= now() - interval '1 day'
GROUP BY status, error_code, model
ORDER BY calls DESC;
