SELECT sum(pg_total_relation_size(relid)) / nullif((SELECT count(*) FROM biz_agent_llm_call_logs), 0) AS bytes_a_row
FROM pg_partition_tree('biz_agent_llm_call_logs')
WHERE isleaf;
