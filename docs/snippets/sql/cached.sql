SELECT model, sum(cached_tokens) AS cached, sum(prompt_tokens) AS prompt,
       round(100.0 * sum(cached_tokens) / nullif(sum(prompt_tokens), 0), 1) AS percent
FROM biz_agent_llm_call_logs
WHERE created_at >= now() - interval '7 days'
GROUP BY model
ORDER BY prompt DESC NULLS LAST;
