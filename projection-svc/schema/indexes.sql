-- What only readers need: made when a generation has caught up, which is cheaper than keeping it
-- during a bulk replay. Executed with search_path set to the generation's schema.
CREATE INDEX sessions_live ON sessions (account_id, created_at DESC, session_id DESC)
    WHERE revoked_at IS NULL;
CREATE INDEX api_keys_newest ON api_keys (account_id, created_at DESC, key_id DESC);
CREATE INDEX queries_newest ON queries (owner, created_at DESC, query_id DESC);
