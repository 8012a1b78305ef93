-- The analysts' views over one generation: one row per query. Executed with search_path set to the
-- schema of its views and then that of its rows.
CREATE VIEW rm_queries AS
SELECT query_id,
       owner AS user_id,
       operation,
       COALESCE(model_used, model) AS model,
       route->>'rule' AS rule,
       route->>'complexity' AS complexity,
       status,
       error_code,
       cancelled_by,
       latency_ms,
       confidence,
       jsonb_array_length(file_ids) AS file_count,
       created_at,
       started_at,
       completed_at,
       prompt_tokens,
       completion_tokens,
       last_seq
FROM queries;

COMMENT ON VIEW rm_queries IS 'One row per query, without question and answer.';
COMMENT ON COLUMN rm_queries.query_id IS 'The query.';
COMMENT ON COLUMN rm_queries.user_id IS 'The account that asked.';
COMMENT ON COLUMN rm_queries.operation IS 'general, analysis, or another operation that the client named.';
COMMENT ON COLUMN rm_queries.model IS 'The model that answered or, before the answer, works on it. Null while the query waits.';
COMMENT ON COLUMN rm_queries.rule IS 'The rule that chose the model it was given to. Null for queries from before there were rules.';
COMMENT ON COLUMN rm_queries.complexity IS 'How much work it was taken for: simple, moderate or complex. Null where rule is.';
COMMENT ON COLUMN rm_queries.status IS 'queued, processing, completed, failed or cancelled.';
COMMENT ON COLUMN rm_queries.error_code IS 'Why it failed: an error code of the API. Null where it did not.';
COMMENT ON COLUMN rm_queries.cancelled_by IS 'Who gave a cancelled query up: owner or system. Null unless it was cancelled.';
COMMENT ON COLUMN rm_queries.latency_ms IS 'Time spent on inference over all attempts, in milliseconds. Null without an answer.';
COMMENT ON COLUMN rm_queries.confidence IS 'Geometric mean probability of the generated tokens, 0 to 1. Null where it is not known.';
COMMENT ON COLUMN rm_queries.file_count IS 'Number of files that belong to the question.';
COMMENT ON COLUMN rm_queries.created_at IS 'When it was asked.';
COMMENT ON COLUMN rm_queries.started_at IS 'When the first worker took it.';
COMMENT ON COLUMN rm_queries.completed_at IS 'When it ended: answered, failed or cancelled.';
COMMENT ON COLUMN rm_queries.prompt_tokens IS 'Tokens of the prompt. Null without an answer.';
COMMENT ON COLUMN rm_queries.completion_tokens IS 'Tokens of the answer. Null without an answer.';
COMMENT ON COLUMN rm_queries.last_seq IS 'Sequence in the log of the latest event that the row reflects.';
