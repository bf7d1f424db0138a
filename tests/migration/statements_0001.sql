==== fresh: printed
BEGIN;
CREATE TABLE biz_agent_llm_call_logs (
    call_id UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    model TEXT NOT NULL,
    trace_id TEXT,
    session_id TEXT,
    conversation_id TEXT,
    user_id TEXT,
    agent_key TEXT,
    temperature DOUBLE PRECISION,
    top_p DOUBLE PRECISION,
    max_tokens INTEGER,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    total_tokens INTEGER,
    latency_ms INTEGER,
    success BOOLEAN,
    error_code TEXT,
    error_message TEXT,
    prompt_snapshot TEXT,
    response_snapshot TEXT,
    finished_at TIMESTAMP WITH TIME ZONE,
    thread_id TEXT,
    node TEXT,
    provider TEXT,
    run_id UUID,
    parent_run_id UUID,
    status TEXT,
    identity_source TEXT,
    identity_reason TEXT,
    usage_source TEXT,
    finish_reason TEXT,
    reasoning_snapshot TEXT,
    cached_tokens INTEGER,
    reasoning_tokens INTEGER,
    ttft_ms INTEGER,
    tool_calls INTEGER,
    cost_usd NUMERIC(18, 9),
    streamed BOOLEAN,
    cached BOOLEAN,
    attributes JSONB,
    CONSTRAINT pk_biz_agent_llm_call_logs PRIMARY KEY (call_id, created_at)
)
 PARTITION BY RANGE (created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs USING brin (created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
CREATE TABLE biz_agent_llm_call_logs_default PARTITION OF biz_agent_llm_call_logs DEFAULT;
CREATE TABLE biz_agent_llm_call_logs_p<month 0> PARTITION OF biz_agent_llm_call_logs FOR VALUES FROM ('<first 0> 00:00:00+00') TO ('<first 1> 00:00:00+00');
CREATE TABLE biz_agent_llm_call_logs_p<month 1> PARTITION OF biz_agent_llm_call_logs FOR VALUES FROM ('<first 1> 00:00:00+00') TO ('<first 2> 00:00:00+00');
CREATE TABLE biz_agent_llm_call_logs_p<month 2> PARTITION OF biz_agent_llm_call_logs FOR VALUES FROM ('<first 2> 00:00:00+00') TO ('<first 3> 00:00:00+00');
COMMIT;
;
==== fresh: printed, back
BEGIN;
DO $llmctx$ BEGIN IF NOT EXISTS (
  SELECT FROM pg_constraint WHERE conrelid = 'biz_agent_llm_call_logs'::regclass AND conname = 'pk_biz_agent_llm_call_logs' AND contype = 'p'
) THEN
  RAISE EXCEPTION 'llmctx did not make this table: `llmctx migrate --downgrade` has to look at it'; END IF; END $llmctx$;
DROP TABLE biz_agent_llm_call_logs;
COMMIT;
;
==== fresh: sent
CREATE TABLE biz_agent_llm_call_logs (
	call_id UUID NOT NULL,
	created_at TIMESTAMP WITH TIME ZONE NOT NULL,
	model TEXT NOT NULL,
	trace_id TEXT,
	session_id TEXT,
	conversation_id TEXT,
	user_id TEXT,
	agent_key TEXT,
	temperature DOUBLE PRECISION,
	top_p DOUBLE PRECISION,
	max_tokens INTEGER,
	prompt_tokens INTEGER,
	completion_tokens INTEGER,
	total_tokens INTEGER,
	latency_ms INTEGER,
	success BOOLEAN,
	error_code TEXT,
	error_message TEXT,
	prompt_snapshot TEXT,
	response_snapshot TEXT,
	finished_at TIMESTAMP WITH TIME ZONE,
	thread_id TEXT,
	node TEXT,
	provider TEXT,
	run_id UUID,
	parent_run_id UUID,
	status TEXT,
	identity_source TEXT,
	identity_reason TEXT,
	usage_source TEXT,
	finish_reason TEXT,
	reasoning_snapshot TEXT,
	cached_tokens INTEGER,
	reasoning_tokens INTEGER,
	ttft_ms INTEGER,
	tool_calls INTEGER,
	cost_usd NUMERIC(18, 9),
	streamed BOOLEAN,
	cached BOOLEAN,
	attributes JSONB,
	CONSTRAINT pk_biz_agent_llm_call_logs PRIMARY KEY (call_id, created_at)
)
 PARTITION BY RANGE (created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs USING brin (created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
CREATE TABLE biz_agent_llm_call_logs_default PARTITION OF biz_agent_llm_call_logs DEFAULT;
CREATE TABLE biz_agent_llm_call_logs_p<month 0> PARTITION OF biz_agent_llm_call_logs FOR VALUES FROM ('<first 0> 00:00:00+00') TO ('<first 1> 00:00:00+00');
CREATE TABLE biz_agent_llm_call_logs_p<month 1> PARTITION OF biz_agent_llm_call_logs FOR VALUES FROM ('<first 1> 00:00:00+00') TO ('<first 2> 00:00:00+00');
CREATE TABLE biz_agent_llm_call_logs_p<month 2> PARTITION OF biz_agent_llm_call_logs FOR VALUES FROM ('<first 2> 00:00:00+00') TO ('<first 3> 00:00:00+00');
==== fresh: sent, back
DROP TABLE biz_agent_llm_call_logs;
==== SQLite: sent
CREATE TABLE biz_agent_llm_call_logs (
	call_id CHAR(32) NOT NULL,
	created_at DATETIME NOT NULL,
	model TEXT NOT NULL,
	trace_id TEXT,
	session_id TEXT,
	conversation_id TEXT,
	user_id TEXT,
	agent_key TEXT,
	temperature DOUBLE,
	top_p DOUBLE,
	max_tokens INTEGER,
	prompt_tokens INTEGER,
	completion_tokens INTEGER,
	total_tokens INTEGER,
	latency_ms INTEGER,
	success BOOLEAN,
	error_code TEXT,
	error_message TEXT,
	prompt_snapshot TEXT,
	response_snapshot TEXT,
	finished_at DATETIME,
	thread_id TEXT,
	node TEXT,
	provider TEXT,
	run_id CHAR(32),
	parent_run_id CHAR(32),
	status TEXT,
	identity_source TEXT,
	identity_reason TEXT,
	usage_source TEXT,
	finish_reason TEXT,
	reasoning_snapshot TEXT,
	cached_tokens INTEGER,
	reasoning_tokens INTEGER,
	ttft_ms INTEGER,
	tool_calls INTEGER,
	cost_usd NUMERIC(18, 9),
	streamed BOOLEAN,
	cached BOOLEAN,
	attributes JSON,
	CONSTRAINT pk_biz_agent_llm_call_logs PRIMARY KEY (call_id, created_at)
);
CREATE INDEX ix_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX ix_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
==== SQLite: sent, back
DROP TABLE biz_agent_llm_call_logs;
==== numbers: printed unseen
BEGIN;
COMMIT;
SET lock_timeout = '300ms';
DO $llmctx$
DECLARE
  t regclass := 'biz_agent_llm_call_logs'; c text[];
BEGIN
  FOREACH c SLICE 1 IN ARRAY ARRAY[['model', 'text'], ['trace_id', 'text'], ['session_id', 'text'], ['conversation_id', 'text'], ['user_id', 'text'], ['agent_key', 'text'], ['temperature', 'double precision'], ['top_p', 'double precision'], ['max_tokens', 'integer'], ['prompt_tokens', 'integer'], ['completion_tokens', 'integer'], ['total_tokens', 'integer'], ['latency_ms', 'integer'], ['success', 'boolean'], ['error_code', 'text'], ['error_message', 'text'], ['prompt_snapshot', 'text'], ['response_snapshot', 'text'], ['finished_at', 'timestamp with time zone'], ['thread_id', 'text'], ['node', 'text'], ['provider', 'text'], ['run_id', 'uuid'], ['parent_run_id', 'uuid'], ['status', 'text'], ['identity_source', 'text'], ['identity_reason', 'text'], ['usage_source', 'text'], ['finish_reason', 'text'], ['reasoning_snapshot', 'text'], ['cached_tokens', 'integer'], ['reasoning_tokens', 'integer'], ['ttft_ms', 'integer'], ['tool_calls', 'integer'], ['cost_usd', 'numeric(18, 9)'], ['streamed', 'boolean'], ['cached', 'boolean'], ['attributes', 'jsonb']] LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN ' || quote_ident(c[1]) || ' ' || c[2];
EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(c[1]) || ' IS ''added by llmctx''';
END IF;
END LOOP;
FOREACH c SLICE 1 IN ARRAY ARRAY[['trace_id'], ['session_id'], ['conversation_id'], ['user_id'], ['agent_key']] LOOP
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped
               AND format_type(atttypid, NULL) NOT IN ('text', 'character varying', 'character'))
       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'llmctx_' || c[1] AND NOT attisdropped)
    THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN llmctx_' || c[1] || ' text';
EXECUTE 'COMMENT ON COLUMN ' || t || '.llmctx_' || c[1] || ' IS ''added by llmctx''';
END IF;
END LOOP;
END
$llmctx$;
DO $llmctx$
DECLARE
  t regclass := 'biz_agent_llm_call_logs'; c record; d text; defaults text[] = '{}'; nullable text[] = '{}'; carrier text;
BEGIN
  FOR c IN SELECT a.attname AS name, format_type(a.atttypid, NULL) AS kind, a.atttypmod - 4 AS size, a.attnum AS num
           FROM pg_attribute a WHERE a.attrelid = t AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
           AND NOT a.attname = ANY (ARRAY['call_id', 'created_at', 'model', 'success', 'status'])
  LOOP
    IF c.name = ANY (ARRAY['model', 'trace_id', 'session_id', 'conversation_id', 'user_id', 'agent_key', 'temperature', 'top_p', 'max_tokens', 'prompt_tokens', 'completion_tokens', 'total_tokens', 'latency_ms', 'success', 'error_code', 'error_message', 'prompt_snapshot', 'response_snapshot', 'finished_at', 'thread_id', 'node', 'provider', 'run_id', 'parent_run_id', 'status', 'identity_source', 'identity_reason', 'usage_source', 'finish_reason', 'reasoning_snapshot', 'cached_tokens', 'reasoning_tokens', 'ttft_ms', 'tool_calls', 'cost_usd', 'streamed', 'cached', 'attributes']) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' DROP NOT NULL';
nullable := nullable || c.name::text;
ELSIF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attnum = c.num AND NOT atthasdef
                  AND attidentity = '') THEN
      d := CASE WHEN c.kind = 'uuid' THEN 'gen_random_uuid()'
                WHEN c.kind IN ('text', 'character varying', 'character') AND (c.size < 0 OR c.size >= 36)
                THEN '(gen_random_uuid())::text' END;
IF d IS NULL OR NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t AND indisunique
                                  AND indkey::text = c.num::text) THEN
        RAISE EXCEPTION USING MESSAGE = 'column ' || c.name || ' is NOT NULL and has no default: give it one';
END IF;
EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' SET DEFAULT ' || d;
defaults := defaults || c.name::text;
END IF;
END LOOP;
SELECT attname INTO carrier FROM pg_attribute WHERE attrelid = t AND NOT attisdropped
    AND starts_with(col_description(attrelid, attnum), 'added by llmctx') ORDER BY attnum LIMIT 1;
IF carrier IS NOT NULL AND (defaults <> '{}' OR nullable <> '{}') THEN
    EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(carrier) || ' IS '
      || quote_literal('added by llmctx ' || jsonb_build_object('defaults', defaults, 'nullable', nullable)::text);
END IF;
END
$llmctx$;
DO $llmctx$
DECLARE
  i regclass;
BEGIN
  FOR i IN SELECT indexrelid FROM pg_index JOIN pg_class c ON c.oid = indexrelid
           WHERE indrelid = 'biz_agent_llm_call_logs'::regclass AND NOT indisvalid AND starts_with(c.relname, 'llmctx_biz_agent_llm_call_logs_')
  LOOP
    EXECUTE 'DROP INDEX ' || i;
END LOOP;
END
$llmctx$;
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR (user_id IS NULL AND llmctx_user_id IS NULL);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_text ON biz_agent_llm_call_logs (llmctx_user_id, created_at) WHERE llmctx_user_id IS NOT NULL;
RESET lock_timeout;
BEGIN;
COMMIT;
;
==== numbers: printed
BEGIN;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb, ADD COLUMN llmctx_user_id text;
COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.llmctx_user_id IS 'added by llmctx';
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR (user_id IS NULL AND llmctx_user_id IS NULL);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_text ON biz_agent_llm_call_logs (llmctx_user_id, created_at) WHERE llmctx_user_id IS NOT NULL;
BEGIN;
COMMIT;
;
==== numbers: sent
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb, ADD COLUMN llmctx_user_id text$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.llmctx_user_id IS 'added by llmctx'$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR (user_id IS NULL AND llmctx_user_id IS NULL);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_text ON biz_agent_llm_call_logs (llmctx_user_id, created_at) WHERE llmctx_user_id IS NOT NULL;
==== numbers: printed, back
BEGIN;
COMMIT;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user_text;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes, DROP COLUMN llmctx_user_id;
COMMIT;
BEGIN;
COMMIT;
;
==== numbers: sent, back
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user_text;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes, DROP COLUMN llmctx_user_id$llmctx_one$;
END $llmctx_all$;
==== numbers, widened: sent
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx'$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN user_id TYPE text USING user_id::text$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
==== numbers, widened: printed, back
BEGIN;
COMMIT;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes;
COMMIT;
BEGIN;
COMMIT;
;
==== numbers, widened: sent, back
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes$llmctx_one$;
END $llmctx_all$;
==== texts: printed unseen
BEGIN;
COMMIT;
SET lock_timeout = '300ms';
DO $llmctx$
DECLARE
  t regclass := 'biz_agent_llm_call_logs'; c text[];
BEGIN
  FOREACH c SLICE 1 IN ARRAY ARRAY[['model', 'text'], ['trace_id', 'text'], ['session_id', 'text'], ['conversation_id', 'text'], ['user_id', 'text'], ['agent_key', 'text'], ['temperature', 'double precision'], ['top_p', 'double precision'], ['max_tokens', 'integer'], ['prompt_tokens', 'integer'], ['completion_tokens', 'integer'], ['total_tokens', 'integer'], ['latency_ms', 'integer'], ['success', 'boolean'], ['error_code', 'text'], ['error_message', 'text'], ['prompt_snapshot', 'text'], ['response_snapshot', 'text'], ['finished_at', 'timestamp with time zone'], ['thread_id', 'text'], ['node', 'text'], ['provider', 'text'], ['run_id', 'uuid'], ['parent_run_id', 'uuid'], ['status', 'text'], ['identity_source', 'text'], ['identity_reason', 'text'], ['usage_source', 'text'], ['finish_reason', 'text'], ['reasoning_snapshot', 'text'], ['cached_tokens', 'integer'], ['reasoning_tokens', 'integer'], ['ttft_ms', 'integer'], ['tool_calls', 'integer'], ['cost_usd', 'numeric(18, 9)'], ['streamed', 'boolean'], ['cached', 'boolean'], ['attributes', 'jsonb']] LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN ' || quote_ident(c[1]) || ' ' || c[2];
EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(c[1]) || ' IS ''added by llmctx''';
END IF;
END LOOP;
FOREACH c SLICE 1 IN ARRAY ARRAY[['trace_id'], ['session_id'], ['conversation_id'], ['user_id'], ['agent_key']] LOOP
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped
               AND format_type(atttypid, NULL) NOT IN ('text', 'character varying', 'character'))
       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'llmctx_' || c[1] AND NOT attisdropped)
    THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN llmctx_' || c[1] || ' text';
EXECUTE 'COMMENT ON COLUMN ' || t || '.llmctx_' || c[1] || ' IS ''added by llmctx''';
END IF;
END LOOP;
END
$llmctx$;
DO $llmctx$
DECLARE
  t regclass := 'biz_agent_llm_call_logs'; c record; d text; defaults text[] = '{}'; nullable text[] = '{}'; carrier text;
BEGIN
  FOR c IN SELECT a.attname AS name, format_type(a.atttypid, NULL) AS kind, a.atttypmod - 4 AS size, a.attnum AS num
           FROM pg_attribute a WHERE a.attrelid = t AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
           AND NOT a.attname = ANY (ARRAY['call_id', 'created_at', 'model', 'success', 'status'])
  LOOP
    IF c.name = ANY (ARRAY['model', 'trace_id', 'session_id', 'conversation_id', 'user_id', 'agent_key', 'temperature', 'top_p', 'max_tokens', 'prompt_tokens', 'completion_tokens', 'total_tokens', 'latency_ms', 'success', 'error_code', 'error_message', 'prompt_snapshot', 'response_snapshot', 'finished_at', 'thread_id', 'node', 'provider', 'run_id', 'parent_run_id', 'status', 'identity_source', 'identity_reason', 'usage_source', 'finish_reason', 'reasoning_snapshot', 'cached_tokens', 'reasoning_tokens', 'ttft_ms', 'tool_calls', 'cost_usd', 'streamed', 'cached', 'attributes']) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' DROP NOT NULL';
nullable := nullable || c.name::text;
ELSIF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attnum = c.num AND NOT atthasdef
                  AND attidentity = '') THEN
      d := CASE WHEN c.kind = 'uuid' THEN 'gen_random_uuid()'
                WHEN c.kind IN ('text', 'character varying', 'character') AND (c.size < 0 OR c.size >= 36)
                THEN '(gen_random_uuid())::text' END;
IF d IS NULL OR NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t AND indisunique
                                  AND indkey::text = c.num::text) THEN
        RAISE EXCEPTION USING MESSAGE = 'column ' || c.name || ' is NOT NULL and has no default: give it one';
END IF;
EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' SET DEFAULT ' || d;
defaults := defaults || c.name::text;
END IF;
END LOOP;
SELECT attname INTO carrier FROM pg_attribute WHERE attrelid = t AND NOT attisdropped
    AND starts_with(col_description(attrelid, attnum), 'added by llmctx') ORDER BY attnum LIMIT 1;
IF carrier IS NOT NULL AND (defaults <> '{}' OR nullable <> '{}') THEN
    EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(carrier) || ' IS '
      || quote_literal('added by llmctx ' || jsonb_build_object('defaults', defaults, 'nullable', nullable)::text);
END IF;
END
$llmctx$;
DO $llmctx$
DECLARE
  i regclass;
BEGIN
  FOR i IN SELECT indexrelid FROM pg_index JOIN pg_class c ON c.oid = indexrelid
           WHERE indrelid = 'biz_agent_llm_call_logs'::regclass AND NOT indisvalid AND starts_with(c.relname, 'llmctx_biz_agent_llm_call_logs_')
  LOOP
    EXECUTE 'DROP INDEX ' || i;
END LOOP;
END
$llmctx$;
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
RESET lock_timeout;
BEGIN;
COMMIT;
;
==== texts: printed
BEGIN;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb;
COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx';
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id SET DEFAULT (gen_random_uuid())::text;
COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx {"defaults": ["id"], "nullable": []}';
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
BEGIN;
COMMIT;
;
==== texts: sent
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx'$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id SET DEFAULT (gen_random_uuid())::text$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx {"defaults": ["id"], "nullable": []}'$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
==== texts: printed, back
BEGIN;
COMMIT;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id DROP DEFAULT;
DROP SEQUENCE IF EXISTS llmctx_biz_agent_llm_call_logs_id_seq;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes;
COMMIT;
BEGIN;
COMMIT;
;
==== texts: sent, back
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id DROP DEFAULT$llmctx_one$;
EXECUTE $llmctx_one$DROP SEQUENCE IF EXISTS llmctx_biz_agent_llm_call_logs_id_seq$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes$llmctx_one$;
END $llmctx_all$;
==== unkeyed: printed unseen
BEGIN;
COMMIT;
SET lock_timeout = '300ms';
DO $llmctx$
DECLARE
  t regclass := 'biz_agent_llm_call_logs'; c text[];
BEGIN
  FOREACH c SLICE 1 IN ARRAY ARRAY[['model', 'text'], ['trace_id', 'text'], ['session_id', 'text'], ['conversation_id', 'text'], ['user_id', 'text'], ['agent_key', 'text'], ['temperature', 'double precision'], ['top_p', 'double precision'], ['max_tokens', 'integer'], ['prompt_tokens', 'integer'], ['completion_tokens', 'integer'], ['total_tokens', 'integer'], ['latency_ms', 'integer'], ['success', 'boolean'], ['error_code', 'text'], ['error_message', 'text'], ['prompt_snapshot', 'text'], ['response_snapshot', 'text'], ['finished_at', 'timestamp with time zone'], ['thread_id', 'text'], ['node', 'text'], ['provider', 'text'], ['run_id', 'uuid'], ['parent_run_id', 'uuid'], ['status', 'text'], ['identity_source', 'text'], ['identity_reason', 'text'], ['usage_source', 'text'], ['finish_reason', 'text'], ['reasoning_snapshot', 'text'], ['cached_tokens', 'integer'], ['reasoning_tokens', 'integer'], ['ttft_ms', 'integer'], ['tool_calls', 'integer'], ['cost_usd', 'numeric(18, 9)'], ['streamed', 'boolean'], ['cached', 'boolean'], ['attributes', 'jsonb']] LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN ' || quote_ident(c[1]) || ' ' || c[2];
EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(c[1]) || ' IS ''added by llmctx''';
END IF;
END LOOP;
FOREACH c SLICE 1 IN ARRAY ARRAY[['trace_id'], ['session_id'], ['conversation_id'], ['user_id'], ['agent_key']] LOOP
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped
               AND format_type(atttypid, NULL) NOT IN ('text', 'character varying', 'character'))
       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'llmctx_' || c[1] AND NOT attisdropped)
    THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN llmctx_' || c[1] || ' text';
EXECUTE 'COMMENT ON COLUMN ' || t || '.llmctx_' || c[1] || ' IS ''added by llmctx''';
END IF;
END LOOP;
END
$llmctx$;
DO $llmctx$
DECLARE
  t regclass := 'biz_agent_llm_call_logs'; c record; d text; defaults text[] = '{}'; nullable text[] = '{}'; carrier text;
BEGIN
  FOR c IN SELECT a.attname AS name, format_type(a.atttypid, NULL) AS kind, a.atttypmod - 4 AS size, a.attnum AS num
           FROM pg_attribute a WHERE a.attrelid = t AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
           AND NOT a.attname = ANY (ARRAY['call_id', 'created_at', 'model', 'success', 'status'])
  LOOP
    IF c.name = ANY (ARRAY['model', 'trace_id', 'session_id', 'conversation_id', 'user_id', 'agent_key', 'temperature', 'top_p', 'max_tokens', 'prompt_tokens', 'completion_tokens', 'total_tokens', 'latency_ms', 'success', 'error_code', 'error_message', 'prompt_snapshot', 'response_snapshot', 'finished_at', 'thread_id', 'node', 'provider', 'run_id', 'parent_run_id', 'status', 'identity_source', 'identity_reason', 'usage_source', 'finish_reason', 'reasoning_snapshot', 'cached_tokens', 'reasoning_tokens', 'ttft_ms', 'tool_calls', 'cost_usd', 'streamed', 'cached', 'attributes']) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' DROP NOT NULL';
nullable := nullable || c.name::text;
ELSIF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attnum = c.num AND NOT atthasdef
                  AND attidentity = '') THEN
      d := CASE WHEN c.kind = 'uuid' THEN 'gen_random_uuid()'
                WHEN c.kind IN ('text', 'character varying', 'character') AND (c.size < 0 OR c.size >= 36)
                THEN '(gen_random_uuid())::text' END;
IF d IS NULL OR NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t AND indisunique
                                  AND indkey::text = c.num::text) THEN
        RAISE EXCEPTION USING MESSAGE = 'column ' || c.name || ' is NOT NULL and has no default: give it one';
END IF;
EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' SET DEFAULT ' || d;
defaults := defaults || c.name::text;
END IF;
END LOOP;
SELECT attname INTO carrier FROM pg_attribute WHERE attrelid = t AND NOT attisdropped
    AND starts_with(col_description(attrelid, attnum), 'added by llmctx') ORDER BY attnum LIMIT 1;
IF carrier IS NOT NULL AND (defaults <> '{}' OR nullable <> '{}') THEN
    EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(carrier) || ' IS '
      || quote_literal('added by llmctx ' || jsonb_build_object('defaults', defaults, 'nullable', nullable)::text);
END IF;
END
$llmctx$;
DO $llmctx$
DECLARE
  i regclass;
BEGIN
  FOR i IN SELECT indexrelid FROM pg_index JOIN pg_class c ON c.oid = indexrelid
           WHERE indrelid = 'biz_agent_llm_call_logs'::regclass AND NOT indisvalid AND starts_with(c.relname, 'llmctx_biz_agent_llm_call_logs_')
  LOOP
    EXECUTE 'DROP INDEX ' || i;
END LOOP;
END
$llmctx$;
SET lock_timeout = 0;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key ON biz_agent_llm_call_logs (call_id) WHERE status IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
RESET lock_timeout;
BEGIN;
COMMIT;
;
==== unkeyed: printed
BEGIN;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb;
COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx';
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id SET DEFAULT (gen_random_uuid())::text;
COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx {"defaults": ["id"], "nullable": []}';
COMMIT;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key ON biz_agent_llm_call_logs (call_id) WHERE status IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
BEGIN;
COMMIT;
;
==== unkeyed: sent
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx'$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id SET DEFAULT (gen_random_uuid())::text$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx {"defaults": ["id"], "nullable": []}'$llmctx_one$;
END $llmctx_all$;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key ON biz_agent_llm_call_logs (call_id) WHERE status IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON biz_agent_llm_call_logs (session_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON biz_agent_llm_call_logs (user_id, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON biz_agent_llm_call_logs (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
==== unkeyed: printed, back
BEGIN;
COMMIT;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_key;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id DROP DEFAULT;
DROP SEQUENCE IF EXISTS llmctx_biz_agent_llm_call_logs_id_seq;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes;
COMMIT;
BEGIN;
COMMIT;
;
==== unkeyed: sent, back
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_created;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_key;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_session;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
DROP INDEX CONCURRENTLY IF EXISTS llmctx_biz_agent_llm_call_logs_user;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ALTER COLUMN id DROP DEFAULT$llmctx_one$;
EXECUTE $llmctx_one$DROP SEQUENCE IF EXISTS llmctx_biz_agent_llm_call_logs_id_seq$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes$llmctx_one$;
END $llmctx_all$;
==== partitioned: printed
BEGIN;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs ADD COLUMN trace_id text, ADD COLUMN session_id text, ADD COLUMN conversation_id text, ADD COLUMN agent_key text, ADD COLUMN temperature double precision, ADD COLUMN top_p double precision, ADD COLUMN max_tokens integer, ADD COLUMN prompt_tokens integer, ADD COLUMN completion_tokens integer, ADD COLUMN total_tokens integer, ADD COLUMN latency_ms integer, ADD COLUMN success boolean, ADD COLUMN error_code text, ADD COLUMN error_message text, ADD COLUMN prompt_snapshot text, ADD COLUMN response_snapshot text, ADD COLUMN finished_at timestamp with time zone, ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb;
COMMENT ON COLUMN biz_agent_llm_call_logs.trace_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.session_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.conversation_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.agent_key IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.temperature IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.top_p IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.max_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.prompt_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.completion_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.total_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.latency_ms IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.success IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.error_code IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.error_message IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.prompt_snapshot IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.response_snapshot IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.finished_at IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx';
COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx';
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
CREATE UNIQUE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key ON ONLY biz_agent_llm_call_logs (call_id, created_at) WHERE status IS NOT NULL;
COMMIT;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key_0 ON old (call_id, created_at) WHERE status IS NOT NULL;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_key ATTACH PARTITION llmctx_biz_agent_llm_call_logs_key_0;
COMMIT;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key_1 ON rest (call_id, created_at) WHERE status IS NOT NULL;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_key ATTACH PARTITION llmctx_biz_agent_llm_call_logs_key_1;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON ONLY biz_agent_llm_call_logs (session_id, created_at);
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session_0 ON old (session_id, created_at);
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_session ATTACH PARTITION llmctx_biz_agent_llm_call_logs_session_0;
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session_1 ON rest (session_id, created_at);
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_session ATTACH PARTITION llmctx_biz_agent_llm_call_logs_session_1;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON ONLY biz_agent_llm_call_logs (user_id, created_at);
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_0 ON old (user_id, created_at);
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_user ATTACH PARTITION llmctx_biz_agent_llm_call_logs_user_0;
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_1 ON rest (user_id, created_at);
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_user ATTACH PARTITION llmctx_biz_agent_llm_call_logs_user_1;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON ONLY biz_agent_llm_call_logs (created_at);
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created_0 ON old (created_at);
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_created ATTACH PARTITION llmctx_biz_agent_llm_call_logs_created_0;
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created_1 ON rest (created_at);
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_created ATTACH PARTITION llmctx_biz_agent_llm_call_logs_created_1;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON ONLY biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL;
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed_0 ON old (created_at) WHERE session_id IS NULL OR user_id IS NULL;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_unattributed ATTACH PARTITION llmctx_biz_agent_llm_call_logs_unattributed_0;
COMMIT;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed_1 ON rest (created_at) WHERE session_id IS NULL OR user_id IS NULL;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER INDEX llmctx_biz_agent_llm_call_logs_unattributed ATTACH PARTITION llmctx_biz_agent_llm_call_logs_unattributed_1;
COMMIT;
BEGIN;
COMMIT;
;
==== partitioned: sent
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs ADD COLUMN trace_id text, ADD COLUMN session_id text, ADD COLUMN conversation_id text, ADD COLUMN agent_key text, ADD COLUMN temperature double precision, ADD COLUMN top_p double precision, ADD COLUMN max_tokens integer, ADD COLUMN prompt_tokens integer, ADD COLUMN completion_tokens integer, ADD COLUMN total_tokens integer, ADD COLUMN latency_ms integer, ADD COLUMN success boolean, ADD COLUMN error_code text, ADD COLUMN error_message text, ADD COLUMN prompt_snapshot text, ADD COLUMN response_snapshot text, ADD COLUMN finished_at timestamp with time zone, ADD COLUMN thread_id text, ADD COLUMN node text, ADD COLUMN provider text, ADD COLUMN run_id uuid, ADD COLUMN parent_run_id uuid, ADD COLUMN status text, ADD COLUMN identity_source text, ADD COLUMN identity_reason text, ADD COLUMN usage_source text, ADD COLUMN finish_reason text, ADD COLUMN reasoning_snapshot text, ADD COLUMN cached_tokens integer, ADD COLUMN reasoning_tokens integer, ADD COLUMN ttft_ms integer, ADD COLUMN tool_calls integer, ADD COLUMN cost_usd numeric(18, 9), ADD COLUMN streamed boolean, ADD COLUMN cached boolean, ADD COLUMN attributes jsonb$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.trace_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.session_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.conversation_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.agent_key IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.temperature IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.top_p IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.max_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.prompt_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.completion_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.total_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.latency_ms IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.success IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.error_code IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.error_message IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.prompt_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.response_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.finished_at IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.thread_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.node IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.provider IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.parent_run_id IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.status IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.identity_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.usage_source IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.finish_reason IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_snapshot IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.reasoning_tokens IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.ttft_ms IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.tool_calls IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cost_usd IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.streamed IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.cached IS 'added by llmctx'$llmctx_one$;
EXECUTE $llmctx_one$COMMENT ON COLUMN biz_agent_llm_call_logs.attributes IS 'added by llmctx'$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$CREATE UNIQUE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key ON ONLY biz_agent_llm_call_logs (call_id, created_at) WHERE status IS NOT NULL$llmctx_one$;
END $llmctx_all$;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key_0 ON old (call_id, created_at) WHERE status IS NOT NULL;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_key ATTACH PARTITION llmctx_biz_agent_llm_call_logs_key_0$llmctx_one$;
END $llmctx_all$;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_key_1 ON rest (call_id, created_at) WHERE status IS NOT NULL;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_key ATTACH PARTITION llmctx_biz_agent_llm_call_logs_key_1$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session ON ONLY biz_agent_llm_call_logs (session_id, created_at)$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session_0 ON old (session_id, created_at);
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_session ATTACH PARTITION llmctx_biz_agent_llm_call_logs_session_0$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_session_1 ON rest (session_id, created_at);
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_session ATTACH PARTITION llmctx_biz_agent_llm_call_logs_session_1$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user ON ONLY biz_agent_llm_call_logs (user_id, created_at)$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_0 ON old (user_id, created_at);
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_user ATTACH PARTITION llmctx_biz_agent_llm_call_logs_user_0$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_user_1 ON rest (user_id, created_at);
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_user ATTACH PARTITION llmctx_biz_agent_llm_call_logs_user_1$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created ON ONLY biz_agent_llm_call_logs (created_at)$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created_0 ON old (created_at);
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_created ATTACH PARTITION llmctx_biz_agent_llm_call_logs_created_0$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_created_1 ON rest (created_at);
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_created ATTACH PARTITION llmctx_biz_agent_llm_call_logs_created_1$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$CREATE INDEX IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed ON ONLY biz_agent_llm_call_logs (created_at) WHERE session_id IS NULL OR user_id IS NULL$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed_0 ON old (created_at) WHERE session_id IS NULL OR user_id IS NULL;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_unattributed ATTACH PARTITION llmctx_biz_agent_llm_call_logs_unattributed_0$llmctx_one$;
END $llmctx_all$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS llmctx_biz_agent_llm_call_logs_unattributed_1 ON rest (created_at) WHERE session_id IS NULL OR user_id IS NULL;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER INDEX llmctx_biz_agent_llm_call_logs_unattributed ATTACH PARTITION llmctx_biz_agent_llm_call_logs_unattributed_1$llmctx_one$;
END $llmctx_all$;
==== partitioned: printed, back
BEGIN;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_created;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_key;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_session;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_user;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '300ms';
ALTER TABLE biz_agent_llm_call_logs DROP COLUMN trace_id, DROP COLUMN session_id, DROP COLUMN conversation_id, DROP COLUMN agent_key, DROP COLUMN temperature, DROP COLUMN top_p, DROP COLUMN max_tokens, DROP COLUMN prompt_tokens, DROP COLUMN completion_tokens, DROP COLUMN total_tokens, DROP COLUMN latency_ms, DROP COLUMN success, DROP COLUMN error_code, DROP COLUMN error_message, DROP COLUMN prompt_snapshot, DROP COLUMN response_snapshot, DROP COLUMN finished_at, DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes;
COMMIT;
BEGIN;
COMMIT;
;
==== partitioned: sent, back
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_created$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_key$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_session$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_unattributed$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$DROP INDEX IF EXISTS llmctx_biz_agent_llm_call_logs_user$llmctx_one$;
END $llmctx_all$;
DO $llmctx_all$ BEGIN
  PERFORM pg_catalog.set_config('lock_timeout', '2500ms', true);
EXECUTE $llmctx_one$LOCK TABLE biz_agent_llm_call_logs IN SHARE UPDATE EXCLUSIVE MODE$llmctx_one$;
EXECUTE $llmctx_one$SET LOCAL lock_timeout = '300ms'$llmctx_one$;
EXECUTE $llmctx_one$ALTER TABLE biz_agent_llm_call_logs DROP COLUMN trace_id, DROP COLUMN session_id, DROP COLUMN conversation_id, DROP COLUMN agent_key, DROP COLUMN temperature, DROP COLUMN top_p, DROP COLUMN max_tokens, DROP COLUMN prompt_tokens, DROP COLUMN completion_tokens, DROP COLUMN total_tokens, DROP COLUMN latency_ms, DROP COLUMN success, DROP COLUMN error_code, DROP COLUMN error_message, DROP COLUMN prompt_snapshot, DROP COLUMN response_snapshot, DROP COLUMN finished_at, DROP COLUMN thread_id, DROP COLUMN node, DROP COLUMN provider, DROP COLUMN run_id, DROP COLUMN parent_run_id, DROP COLUMN status, DROP COLUMN identity_source, DROP COLUMN identity_reason, DROP COLUMN usage_source, DROP COLUMN finish_reason, DROP COLUMN reasoning_snapshot, DROP COLUMN cached_tokens, DROP COLUMN reasoning_tokens, DROP COLUMN ttft_ms, DROP COLUMN tool_calls, DROP COLUMN cost_usd, DROP COLUMN streamed, DROP COLUMN cached, DROP COLUMN attributes$llmctx_one$;
END $llmctx_all$;
