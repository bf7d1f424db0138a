SELECT date_trunc('hour', created_at) AS hour,
       count(*) FILTER (WHERE identity_source IS NULL) AS yours,
       count(*) FILTER (WHERE identity_source IS NOT NULL) AS llmctx,
       count(*) FILTER (WHERE identity_source IS NULL AND user_id IS NULL) AS yours_without_user,
       count(*) FILTER (WHERE identity_source IS NOT NULL AND user_id IS NULL) AS llmctx_without_user
FROM biz_agent_llm_call_logs
WHERE created_at >= now() - interval '1 day'
GROUP BY hour
ORDER BY hour;
