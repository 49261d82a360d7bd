-- name: found

-- What an installation that has been used has.
SELECT (SELECT count(*) FROM data) AS "Data",
       (SELECT count(*) FROM run) AS "Runs",
       (SELECT count(*) FROM plan WHERE name IS NULL) AS "Plans",
       (SELECT count(*) FROM token) AS "tokens"

-- name: revision

SELECT version_num FROM alembic_version

-- name: restored

-- Which set was loaded here, if any.
SELECT targets->>'set' FROM audit WHERE method = 'RESTORE' ORDER BY entry_id DESC LIMIT 1

-- name: keep_audit

-- What was recorded here before; it goes behind what is loaded.
CREATE TEMPORARY TABLE kept_audit ON COMMIT DROP AS SELECT * FROM audit

-- name: append_audit

INSERT INTO audit (entry_id, outcome_of, at, subject, actor, method, route, targets, address, status)
OVERRIDING SYSTEM VALUE
SELECT entry_id + %(after)s, outcome_of + %(after)s, at, subject, actor, method, route, targets,
       address, status
  FROM kept_audit
 ORDER BY entry_id

-- name: record

INSERT INTO audit (at, subject, actor, method, route, targets, status)
VALUES (date_trunc('milliseconds', clock_timestamp()), 'database:' || current_user, %(by)s,
        'RESTORE', 'backup', %(targets)s, 200)

-- name: fail_under_way

-- Runs whose containers did not come along. What was aborting keeps the exit that it had.
WITH cut AS MATERIALIZED (
    SELECT run_id, generation, status, updated_at
      FROM run
     WHERE status IN ('ready', 'starting', 'running', 'completing', 'aborting')
), moved AS (
    UPDATE run
       SET status = 'failed',
           exit_code = CASE WHEN cut.status = 'aborting' AND run.exit_code IS NOT NULL
                            THEN run.exit_code ELSE %(exit_code)s::smallint END,
           exit_message = CASE WHEN cut.status = 'aborting' AND run.exit_code IS NOT NULL
                               THEN run.exit_message ELSE %(exit_message)s::text END,
           updated_at = date_trunc('milliseconds', clock_timestamp()),
           holdup = NULL,
           hook_env = NULL
      FROM cut
     WHERE run.run_id = cut.run_id
 RETURNING run.run_id, run.generation, cut.status AS before, run.updated_at, run.exit_code,
           run.exit_message
), stamped AS (
    UPDATE data
       SET timestamp = moved.updated_at
      FROM moved
     WHERE data.run_id = moved.run_id
)
INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, exit_code, exit_message)
SELECT run_id, generation, updated_at, before, 'failed', %(cause)s, exit_code, exit_message
  FROM moved

-- name: queue_waiting

-- Runs that wait are admitted anew: this installation has other limits, and no workflow of theirs.
UPDATE run
   SET admitted_at = NULL, workflow_started_at = NULL, holdup = NULL
 WHERE status IN ('waiting', 'deactivated')

-- name: forget_stops

DELETE FROM outbox
 WHERE kind = 'stop_run'
   AND subject IN (SELECT run_id FROM run WHERE status IN ('done', 'failed', 'invalidated'))

-- name: own_volumes

-- All volumes that were restored are knit's own here, under the names that it gives. Data of Runs
-- that wait get new ones: where the claims outlived the database, the Run may have been done since,
-- and what it wrote then be in the volume of the old name.
UPDATE data
   SET volume = %(prefix)s::text
                || CASE WHEN run.status IN ('waiting', 'deactivated') THEN gen_random_uuid()
                        ELSE knit_id END::text,
       owned = true
  FROM run
 WHERE run.run_id = data.run_id
   AND purged_at IS NULL

-- name: purge_missing

-- Data whose volumes are not in the set: they were deleted before it could read them.
UPDATE data
   SET purged_at = date_trunc('milliseconds', clock_timestamp())
 WHERE knit_id = ANY (%(knit_ids)s::uuid[])
   AND purged_at IS NULL
