-- name: begin

-- The Run of an import, its Data and its history; none if the Run exists. Whoever imports makes the
-- volume.
WITH made AS (
    INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
    SELECT %(run_id)s, plan_id, 'running', at, at
      FROM plan, date_trunc('milliseconds', clock_timestamp()) AS at
     WHERE name = %(plan)s
        ON CONFLICT (run_id) DO NOTHING
 RETURNING run_id, plan_id, generation, status, created_at
), filled AS (
    INSERT INTO data (knit_id, run_id, output_id, volume)
    SELECT %(knit_id)s, made.run_id, o.output_id, %(volume)s
      FROM made
      JOIN plan_output o USING (plan_id)
)
INSERT INTO run_event (run_id, generation, at, to_status, cause, actor)
SELECT run_id, generation, created_at, status, 'import begins', %(actor)s
  FROM made

-- name: lock

-- The Run of an import, locked against every other change, and whether its time is over.
SELECT r.status, r.created_at < clock_timestamp() - %(window)s AS is_over
  FROM run r
  JOIN data d USING (run_id)
  JOIN plan p USING (plan_id)
 WHERE r.run_id = %(run_id)s
   AND d.knit_id = %(knit_id)s
   AND p.name = %(plan)s
   FOR NO KEY UPDATE OF r

-- name: end

-- The importer has handed the volume over.
WITH moved AS (
    UPDATE run
       SET status = 'completing',
           updated_at = date_trunc('milliseconds', clock_timestamp())
     WHERE run_id = %(run_id)s
 RETURNING run_id, generation, status, updated_at
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, actor)
    SELECT run_id, generation, updated_at, 'running', status, 'import ends', %(actor)s
      FROM moved
)
SELECT pg_notify(%(run_channel)s, run_id::text) FROM moved

-- name: newest_key

-- The newest key, if it is young enough to sign.
SELECT kid, secret, clock_timestamp() - created_at AS age
  FROM import_key
 WHERE created_at > clock_timestamp() - %(signs_until)s
 ORDER BY created_at DESC, kid
 LIMIT 1

-- name: serialize

-- One rotation at a time.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: rotate

-- A new key; those that have verified nothing for long are forgotten.
WITH forgotten AS (
    DELETE FROM import_key WHERE created_at < clock_timestamp() - %(forgotten_at)s
)
INSERT INTO import_key (kid, secret, created_at)
VALUES (%(kid)s, %(secret)s, date_trunc('milliseconds', clock_timestamp()))
RETURNING kid, secret, clock_timestamp() - created_at AS age

-- name: key

-- A key by its name.
SELECT kid, secret, clock_timestamp() - created_at AS age FROM import_key WHERE kid = %(kid)s
