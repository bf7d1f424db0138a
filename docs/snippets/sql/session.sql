SELECT created_at, node, model, prompt_snapshot, response_snapshot, cost_usd
FROM biz_agent_llm_call_logs
WHERE session_id = 'v-05-15' AND user_id = 'p-05'
ORDER BY created_at;
