-- The analysts' views over one generation: sums and percentiles by UTC day, accounts without names,
-- and how far all this is. Executed as analytics.sql is. Days are cut in UTC whatever the session's
-- time zone is.
CREATE VIEW rm_usage_daily AS
SELECT (created_at AT TIME ZONE 'UTC')::date AS day,
       owner AS user_id,
       operation,
       COALESCE(model_used, model) AS model,
       count(*) AS asked,
       count(*) FILTER (WHERE status = 'completed') AS completed,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE completed_at IS NULL) AS unfinished,
       COALESCE(sum(jsonb_array_length(file_ids)), 0)::bigint AS file_count,
       COALESCE(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
       COALESCE(sum(completion_tokens), 0)::bigint AS completion_tokens,
       COALESCE(sum(latency_ms), 0)::bigint AS inference_ms,
       max(last_seq) AS last_seq
FROM queries
GROUP BY 1, 2, 3, 4;

COMMENT ON VIEW rm_usage_daily IS 'One row per UTC day, user, operation and model: what was asked on that day and what became of it.';
COMMENT ON COLUMN rm_usage_daily.day IS 'UTC day of the questions.';
COMMENT ON COLUMN rm_usage_daily.user_id IS 'The account that asked.';
COMMENT ON COLUMN rm_usage_daily.operation IS 'general, analysis, or another operation that the client named.';
COMMENT ON COLUMN rm_usage_daily.model IS 'The model that answered or works on it. Null for queries that no worker took.';
COMMENT ON COLUMN rm_usage_daily.asked IS 'Queries. The four columns that follow add up to it.';
COMMENT ON COLUMN rm_usage_daily.completed IS 'Of these, answered.';
COMMENT ON COLUMN rm_usage_daily.failed IS 'Of these, failed.';
COMMENT ON COLUMN rm_usage_daily.cancelled IS 'Of these, cancelled.';
COMMENT ON COLUMN rm_usage_daily.unfinished IS 'Of these, not ended yet.';
COMMENT ON COLUMN rm_usage_daily.file_count IS 'Files that belong to the questions.';
COMMENT ON COLUMN rm_usage_daily.prompt_tokens IS 'Tokens of the prompts that were answered.';
COMMENT ON COLUMN rm_usage_daily.completion_tokens IS 'Tokens of the answers.';
COMMENT ON COLUMN rm_usage_daily.inference_ms IS 'Time spent on inference for the answers, in milliseconds.';
COMMENT ON COLUMN rm_usage_daily.last_seq IS 'Sequence in the log of the latest event that the row reflects.';

-- Percentiles are latencies that occurred: the smallest that so many of a hundred do not exceed.
CREATE VIEW rm_latency_daily AS
SELECT day,
       operation,
       model,
       answers,
       percentiles[1] AS p50_ms,
       percentiles[2] AS p90_ms,
       percentiles[3] AS p95_ms,
       percentiles[4] AS p99_ms,
       slowest_ms,
       last_seq
FROM (
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day,
           operation,
           model_used AS model,
           count(*) AS answers,
           percentile_disc(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
               AS percentiles,
           max(latency_ms) AS slowest_ms,
           max(last_seq) AS last_seq
    FROM queries
    WHERE status = 'completed'
    GROUP BY 1, 2, 3
) AS daily;

COMMENT ON VIEW rm_latency_daily IS 'One row per UTC day, operation and model: how long inference took for the answers. Percentiles of days do not add up to those of a week: take these from rm_queries.';
COMMENT ON COLUMN rm_latency_daily.day IS 'UTC day of the questions.';
COMMENT ON COLUMN rm_latency_daily.operation IS 'general, analysis, or another operation that the client named.';
COMMENT ON COLUMN rm_latency_daily.model IS 'The model that answered.';
COMMENT ON COLUMN rm_latency_daily.answers IS 'Answered queries.';
COMMENT ON COLUMN rm_latency_daily.p50_ms IS 'Half of them took at most so many milliseconds of inference.';
COMMENT ON COLUMN rm_latency_daily.p90_ms IS 'The same for 90 of a hundred.';
COMMENT ON COLUMN rm_latency_daily.p95_ms IS 'The same for 95 of a hundred.';
COMMENT ON COLUMN rm_latency_daily.p99_ms IS 'The same for 99 of a hundred.';
COMMENT ON COLUMN rm_latency_daily.slowest_ms IS 'The longest one.';
COMMENT ON COLUMN rm_latency_daily.last_seq IS 'Sequence in the log of the latest event that the row reflects.';

CREATE VIEW rm_funnel_daily AS
SELECT day,
       operation,
       asked,
       started,
       completed,
       failed,
       cancelled,
       unfinished,
       lost_waiting,
       waits[1] AS wait_p50_ms,
       waits[2] AS wait_p95_ms,
       totals[1] AS total_p50_ms,
       totals[2] AS total_p95_ms,
       last_seq
FROM (
    SELECT day,
           operation,
           count(*) AS asked,
           count(started_at) AS started,
           count(*) FILTER (WHERE status = 'completed') AS completed,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE completed_at IS NULL) AS unfinished,
           count(completed_at) FILTER (WHERE started_at IS NULL) AS lost_waiting,
           percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY wait_ms) AS waits,
           percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY total_ms)
               FILTER (WHERE status = 'completed') AS totals,
           max(last_seq) AS last_seq
    FROM (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day,
               operation,
               status,
               started_at,
               completed_at,
               (EXTRACT(EPOCH FROM started_at - created_at) * 1000)::bigint AS wait_ms,
               (EXTRACT(EPOCH FROM completed_at - created_at) * 1000)::bigint AS total_ms,
               last_seq
        FROM queries
    ) AS each
    GROUP BY day, operation
) AS daily;

COMMENT ON VIEW rm_funnel_daily IS 'One row per UTC day and operation: how far the questions of that day came, and how long it took them.';
COMMENT ON COLUMN rm_funnel_daily.day IS 'UTC day of the questions.';
COMMENT ON COLUMN rm_funnel_daily.operation IS 'general, analysis, or another operation that the client named.';
COMMENT ON COLUMN rm_funnel_daily.asked IS 'Queries. Completed, failed, cancelled and unfinished add up to it.';
COMMENT ON COLUMN rm_funnel_daily.started IS 'Of these, taken by a worker.';
COMMENT ON COLUMN rm_funnel_daily.completed IS 'Of these, answered.';
COMMENT ON COLUMN rm_funnel_daily.failed IS 'Of these, failed.';
COMMENT ON COLUMN rm_funnel_daily.cancelled IS 'Of these, cancelled.';
COMMENT ON COLUMN rm_funnel_daily.unfinished IS 'Of these, not ended yet.';
COMMENT ON COLUMN rm_funnel_daily.lost_waiting IS 'Of these, failed or cancelled before a worker took them.';
COMMENT ON COLUMN rm_funnel_daily.wait_p50_ms IS 'Half of those started waited at most so many milliseconds for a worker. Null where none was.';
COMMENT ON COLUMN rm_funnel_daily.wait_p95_ms IS 'The same for 95 of a hundred.';
COMMENT ON COLUMN rm_funnel_daily.total_p50_ms IS 'Half of those answered took at most so many milliseconds from the question to the end of the answer. Null where none was.';
COMMENT ON COLUMN rm_funnel_daily.total_p95_ms IS 'The same for 95 of a hundred.';
COMMENT ON COLUMN rm_funnel_daily.last_seq IS 'Sequence in the log of the latest event that the row reflects.';

CREATE VIEW rm_accounts_meta AS
SELECT account_id AS user_id,
       subscription_tier AS tier,
       is_active,
       created_at,
       last_seq
FROM accounts;

COMMENT ON VIEW rm_accounts_meta IS 'One row per account, without name and address.';
COMMENT ON COLUMN rm_accounts_meta.user_id IS 'The account: user_id of the other views.';
COMMENT ON COLUMN rm_accounts_meta.tier IS 'free, pro or enterprise: what the account has now.';
COMMENT ON COLUMN rm_accounts_meta.is_active IS 'Whether it may sign in.';
COMMENT ON COLUMN rm_accounts_meta.created_at IS 'When it was registered.';
COMMENT ON COLUMN rm_accounts_meta.last_seq IS 'Sequence in the log of the latest event that the row reflects.';

CREATE VIEW rm_checkpoint AS
SELECT generation,
       min(seq) AS last_seq,
       max(updated_at) AS updated_at
FROM checkpoint
GROUP BY generation;

COMMENT ON VIEW rm_checkpoint IS 'One row: how far in the log all views are.';
COMMENT ON COLUMN rm_checkpoint.generation IS 'Number of the read models that the views show. It changes when they have been built anew.';
COMMENT ON COLUMN rm_checkpoint.last_seq IS 'All views reflect the log up to this sequence at least.';
COMMENT ON COLUMN rm_checkpoint.updated_at IS 'When that last moved on.';
