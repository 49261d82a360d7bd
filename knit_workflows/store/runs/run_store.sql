-- name: run_place

-- The position of a Run in the list of Runs.
SELECT updated_at FROM run WHERE run_id = %(run_id)s

-- name: run_status

-- The status of a Run.
SELECT status FROM run WHERE run_id = %(run_id)s

-- name: lock_run

-- A Run, locked against every other change.
SELECT run_id, generation, status, admitted_at, assignment_hash IS NOT NULL AS projected,
       (SELECT p.name FROM plan p WHERE p.plan_id = run.plan_id) AS plan_name
  FROM run
 WHERE run_id = %(run_id)s
   FOR NO KEY UPDATE

-- name: stop

-- A user's stop: status, exit, history, and the request to its execution, if there may be one.
WITH moved AS (
    UPDATE run
       SET status = %(target)s,
           exit_code = %(exit_code)s,
           exit_message = %(exit_message)s,
           hook_env = NULL,
           holdup = NULL,
           updated_at = date_trunc('milliseconds', clock_timestamp())
     WHERE run_id = %(run_id)s
 RETURNING run_id, generation, status, updated_at, exit_code, exit_message
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause,
                           exit_code, exit_message, actor)
    SELECT run_id, generation, updated_at, %(before)s, status, %(cause)s, exit_code, exit_message,
           %(actor)s
      FROM moved
), ordered AS (
    INSERT INTO outbox (kind, subject, payload, created_at)
    SELECT 'stop_run', run_id,
           jsonb_build_object('generation', generation, 'fail', %(fail)s::boolean), updated_at
      FROM moved
     WHERE %(has_execution)s
)
SELECT pg_notify(%(run_channel)s, run_id::text)::text || pg_notify(%(outbox_channel)s, '')::text
       || pg_notify(%(throttle_channel)s, '')::text AS notified
  FROM moved

-- name: inputs

-- A user's Plan's inputs, in order of their positions.
SELECT i.path
  FROM plan p
  JOIN plan_input i USING (plan_id)
 WHERE p.plan_id = %(plan_id)s
 ORDER BY i.position

-- name: present

-- Which of these Data exist.
SELECT knit_id FROM data WHERE knit_id = ANY (%(knit_ids)s::uuid[])

-- name: assigned_run

-- The Run of an assignment.
SELECT run_id, generation
  FROM run
 WHERE plan_id = %(plan_id)s
   AND assignment_hash = %(hash)s

-- name: census

-- How many Runs there are of each status that is not final, for each of the `most` Plans that have
-- the most of them, and for the others together (no Plan); and for how long the Run that has waited
-- for the longest time has done so. What has ended costs nothing, however much it is:
-- * The many, waiting and deactivated, are counted in indexes that hold nothing else, and the Plan:
--   `ix_run_queue_of_plan`, `ix_run_deactivated`.
-- * Those under way are few: they are looked up through `ix_run_admitted`, and what was never
--   admitted, such as uploads, through `ix_run_status`.
-- * Counted at once, by Plan and status, all of `ix_run_plan` would be read, ended Runs included.
WITH counted AS MATERIALIZED (
    SELECT plan_id, 'waiting' AS status, count(*) AS runs
      FROM run
     WHERE status = 'waiting'
       AND admitted_at IS NULL
     GROUP BY plan_id
     UNION ALL
    SELECT plan_id, 'deactivated', count(*)
      FROM run
     WHERE status = 'deactivated'
     GROUP BY plan_id
     UNION ALL
    SELECT plan_id, status, count(*)
      FROM run
     WHERE admitted_at IS NOT NULL
       AND status NOT IN ('done', 'failed', 'invalidated')
       AND status <> 'deactivated'
     GROUP BY plan_id, status
     UNION ALL
    SELECT plan_id, status, count(*)
      FROM run
     WHERE admitted_at IS NULL
       AND status IN ('ready', 'starting', 'running', 'completing', 'aborting')
     GROUP BY plan_id, status
), named AS (
    SELECT first.plan_id, p.name, p.repository, p.image_tag, p.image_digest
      FROM (SELECT plan_id
              FROM counted
             GROUP BY plan_id
             ORDER BY sum(runs) DESC, plan_id
             LIMIT %(most)s) AS first
      JOIN plan p USING (plan_id)
)
SELECT named.*, counted.status, sum(counted.runs)::bigint AS runs,
       (SELECT now() - min(updated_at) FROM run WHERE status = 'waiting') AS waited
  FROM counted
  LEFT JOIN named USING (plan_id)
 GROUP BY named.plan_id, named.name, named.repository, named.image_tag, named.image_digest,
          counted.status
