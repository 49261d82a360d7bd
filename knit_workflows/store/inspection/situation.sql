-- name: counts

-- Runs by status that is not final, since when the oldest of each has it, and which it is. Without
-- a choice of Plans `ix_run_status` holds all of it: the many that have ended cost nothing.
SELECT found.status, found.runs, found.since, oldest.run_id
  FROM (SELECT status, count(*) AS runs, min(updated_at) AS since
          FROM run
         WHERE status IN ('deactivated', 'waiting', 'ready', 'starting', 'running', 'completing',
                          'aborting')
           /*of_plans*/
         GROUP BY status) AS found
 CROSS JOIN LATERAL (
        SELECT run_id
          FROM run
         WHERE status = found.status
           /*of_plans*/
         ORDER BY updated_at, run_id
         LIMIT 1) AS oldest

-- name: held_up

-- Why Runs that have been admitted do not go on, by kind and code: `ix_run_admitted` holds few.
SELECT holdup->>'kind' AS kind, COALESCE(holdup->>'code', '') AS code, count(*) AS runs,
       min(COALESCE((holdup->>'since')::timestamptz, updated_at)) AS since,
       (array_agg(run_id ORDER BY updated_at, run_id))[1] AS run_id,
       (array_agg(COALESCE(holdup->>'message', '') ORDER BY updated_at, run_id))[1] AS message
  FROM run
 WHERE admitted_at IS NOT NULL
   AND status NOT IN ('done', 'failed', 'invalidated')
   AND holdup IS NOT NULL
   /*of_plans*/
 GROUP BY holdup->>'kind', COALESCE(holdup->>'code', '')
 ORDER BY runs DESC, kind, code
 LIMIT %(most)s

-- name: failures

-- The Runs that failed last.
SELECT run.run_id, run.updated_at AS at, run.exit_code, run.exit_message,
       p.name, p.repository, p.image_tag, p.image_digest
  FROM run
  JOIN plan p USING (plan_id)
 WHERE run.status = 'failed'
   AND run.updated_at > clock_timestamp() - %(lately)s
   /*of_plans*/
 ORDER BY run.updated_at DESC, run.run_id
 LIMIT %(most)s

-- name: rest

-- What else there is to do, and how many Runs have ended lately. The subqueries with a LIMIT count
-- no further. The oldest event is anywhere: long ones are put back behind the others.
SELECT clock_timestamp() AS at,
       (SELECT count(*)
          FROM (SELECT FROM run WHERE status = 'done' AND updated_at > clock_timestamp() - %(lately)s
                 /*of_plans*/ LIMIT %(counted)s) AS counted) AS done,
       (SELECT count(*)
          FROM (SELECT FROM run WHERE status = 'failed'
                   AND updated_at > clock_timestamp() - %(lately)s
                 /*of_plans*/ LIMIT %(counted)s) AS counted) AS failed,
       (SELECT count(*)
          FROM (SELECT FROM outbox WHERE kind <> 'stop_run' LIMIT %(counted)s) AS counted) AS events,
       (SELECT clock_timestamp() - min(created_at)
          FROM outbox WHERE kind <> 'stop_run') AS oldest_event,
       (SELECT count(*) FROM (SELECT FROM transfer LIMIT %(counted)s) AS counted) AS transfers,
       (SELECT count(*) FROM (SELECT FROM discarded LIMIT %(counted)s) AS counted) AS discarded,
       (SELECT total FROM admission) AS total,
       (SELECT per_plan FROM admission) AS per_plan,
       (SELECT held FROM admission) AS held,
       pg_database_size(current_database()) AS database_bytes,
       (SELECT version_num FROM alembic_version) AS revision
