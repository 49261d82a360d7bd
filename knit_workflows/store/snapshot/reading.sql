-- name: about

-- The revision of the tables and the instant of this snapshot.
SELECT (SELECT version_num FROM alembic_version) AS revision,
       date_trunc('milliseconds', clock_timestamp()) AS at

-- name: volumes

-- The volumes that are final: those of Runs that have ended. Only what is not written any more is
-- here; what a failed Run has left need not be there.
SELECT d.knit_id::text, d.volume, d.owned, r.status = 'done' AS must_be_there
  FROM data d
  JOIN run r USING (run_id)
 WHERE r.status IN ('done', 'failed')
   AND d.purged_at IS NULL
 ORDER BY d.timestamp, d.knit_id

-- name: under_way

SELECT count(*)
  FROM run
 WHERE status IN ('ready', 'starting', 'running', 'completing', 'aborting')

-- name: sequences

-- A sequence that has given no number yet has no last one.
SELECT s.sequencename AS name, s.last_value
  FROM pg_sequences s
 WHERE s.schemaname = current_schema()
   AND s.last_value IS NOT NULL

-- name: still_there

SELECT knit_id::text
  FROM data
 WHERE knit_id = ANY (%(knit_ids)s::uuid[])
   AND purged_at IS NULL
