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

-- How many Runs there are of each status that is not final, and for how long the one that has had
-- it longest has had it. `ix_run_status` holds all of it: the many that have ended cost nothing.
SELECT status, count(*) AS runs, now() - min(updated_at) AS waited
  FROM run
 WHERE status IN ('deactivated', 'waiting', 'ready', 'starting', 'running', 'completing', 'aborting')
 GROUP BY status
