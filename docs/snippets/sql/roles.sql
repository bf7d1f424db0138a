CREATE ROLE llm_writer LOGIN;
GRANT INSERT ON biz_agent_llm_call_logs TO llm_writer;

CREATE ROLE llm_reader LOGIN;
GRANT SELECT ON biz_agent_llm_call_logs TO llm_reader;
