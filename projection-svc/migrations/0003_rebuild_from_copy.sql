-- Generations that were made before say, like new ones, that they are folded from the log.
ALTER TABLE IF EXISTS rm.meta ADD COLUMN IF NOT EXISTS from_copy boolean NOT NULL DEFAULT false;
ALTER TABLE IF EXISTS rm_next.meta ADD COLUMN IF NOT EXISTS from_copy boolean NOT NULL DEFAULT false;
ALTER TABLE IF EXISTS rm_previous.meta ADD COLUMN IF NOT EXISTS from_copy boolean NOT NULL DEFAULT false;
