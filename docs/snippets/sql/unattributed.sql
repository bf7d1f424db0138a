SELECT identity_reason, node, agent_key, count(*) AS calls, max(created_at) AS last
FROM biz_agent_llm_call_logs
WHERE (user_id IS NULL OR session_id IS NULL) AND created_at >= now() - interval '7 days'
GROUP BY identity_reason, node, agent_key
ORDER BY calls DESC;
