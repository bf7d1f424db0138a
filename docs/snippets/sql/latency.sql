SELECT model,
       count(*) AS calls,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY ttft_ms) AS first_content_p50_ms
FROM biz_agent_llm_call_logs
WHERE status = 'ok' AND created_at >= now() - interval '1 day'
GROUP BY model
ORDER BY calls DESC;
