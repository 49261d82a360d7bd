-- name: set_active

-- Waits for transactions that create or retry Runs of the Plan, which read this under a share lock:
-- whatever they have made, the pages that follow see.
UPDATE plan
   SET active = %(active)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: unfinished

-- Plans with Runs that do not stand as the Plan says: two looks into an index per Plan.
SELECT p.plan_id, p.active
  FROM plan p
 WHERE p.name IS NULL
   AND EXISTS (SELECT
                 FROM run r
                WHERE r.plan_id = p.plan_id
                  AND r.status = CASE WHEN p.active THEN 'deactivated' ELSE 'waiting' END)
 ORDER BY p.plan_id

-- name: move_runs

-- Moves some of the Plan's Runs that have not begun; none if somebody else has changed the Plan's
-- mind. One that was admitted may have a workflow: that execution is over, and is told so; the Run
-- gets another one once the Plan is active again and its turn comes. So these go first. The others
-- nobody follows. `found` counts those that have been moved by others at this moment, too. Pairs
-- are compared so that the planner walks the index in its order, whatever it takes for few: it would
-- gather all that wait, for each page again.
WITH wanted AS MATERIALIZED (
    SELECT plan_id, priority
      FROM plan
     WHERE plan_id = %(plan_id)s
       AND active = %(active)s
       FOR SHARE
), admitted AS MATERIALIZED (
    SELECT r.run_id, r.status
      FROM wanted w
      JOIN run r USING (plan_id)
     WHERE r.admitted_at IS NOT NULL
       AND r.status NOT IN ('done', 'failed', 'invalidated')
), queued AS MATERIALIZED (
    SELECT run_id FROM admitted WHERE status = %(source)s
     UNION
    SELECT one.run_id
      FROM wanted w
     CROSS JOIN LATERAL (
        SELECT r.run_id
          FROM run r
         WHERE (r.plan_id, r.status) >= (w.plan_id, %(source)s)
           AND (r.plan_id, r.status) <= (w.plan_id, %(source)s)
         ORDER BY r.plan_id, r.status, r.updated_at, r.run_id
         LIMIT %(most)s
     ) one
), cur AS MATERIALIZED (
    SELECT run_id, admitted_at
      FROM run
     WHERE run_id = ANY (ARRAY(SELECT run_id FROM queued))
       AND status = %(source)s
     ORDER BY run_id
       FOR NO KEY UPDATE
), moved AS (
    UPDATE run
       SET status = %(target)s,
           generation = run.generation
                        + CASE WHEN cur.admitted_at IS NULL THEN 0 ELSE 1 END,
           admitted_at = NULL,
           workflow_started_at = NULL,
           holdup = NULL,
           hook_env = NULL,
           priority = (SELECT priority FROM wanted)
      FROM cur
     WHERE run.run_id = cur.run_id
 RETURNING run.run_id, run.generation, cur.admitted_at IS NOT NULL AS was_admitted
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, actor)
    SELECT run_id, generation, date_trunc('milliseconds', clock_timestamp()),
           %(source)s, %(target)s, %(cause)s, %(actor)s
      FROM moved
     ORDER BY run_id
), told AS (
    SELECT count(pg_notify(%(run_channel)s, run_id::text)::text)
      FROM moved
     WHERE was_admitted
)
SELECT (SELECT count(*) FROM queued) AS found,
       (SELECT count(*) FROM moved) AS moved,
       (SELECT count FROM told) AS told,
       pg_notify(%(outbox_channel)s, '')::text AS notified
