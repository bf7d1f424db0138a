SELECT user_id, count(*) AS calls, sum(cost_usd) AS usd, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
FROM biz_agent_llm_call_logs
WHERE created_at >= date_trunc('month', now())
GROUP BY user_id
ORDER BY usd DESC NULLS LAST
LIMIT 20;
