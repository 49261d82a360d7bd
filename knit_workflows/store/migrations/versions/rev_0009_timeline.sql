-- Without a default: nothing is rewritten, and workers of before go on.
ALTER TABLE run_event ADD COLUMN timeline JSONB;
