-- name: lock

-- A Run, locked against every other change. Its Plan is share-locked before, as for new Runs:
-- whether it is active cannot change until this transaction ends.
WITH plan AS MATERIALIZED (
    SELECT plan_id, active, name
      FROM plan
     WHERE plan_id = (SELECT plan_id FROM run WHERE run_id = %(run_id)s)
       FOR SHARE
)
SELECT run.run_id, run.generation, run.status, run.admitted_at IS NOT NULL AS admitted,
       run.assignment_hash IS NOT NULL AS projected, plan.active, plan.name
  FROM plan
  JOIN run USING (plan_id)
 WHERE run.run_id = %(run_id)s
   FOR NO KEY UPDATE OF run

-- name: lock_inputs

-- The Data that a Run uses, locked as a new use locks them: none is purged until this transaction
-- ends.
SELECT d.knit_id, d.purged_at
  FROM run_input ri
  JOIN data d USING (knit_id)
 WHERE ri.run_id = %(run_id)s
 ORDER BY d.knit_id
   FOR KEY SHARE OF d

-- name: lock_outputs

-- The Data of a Run, locked against new uses, which wait for this transaction.
SELECT knit_id FROM data WHERE run_id = %(run_id)s ORDER BY knit_id FOR UPDATE

-- name: end_readers

-- Ends transfers that read these Data and serve nobody. Whoever opens or keeps one finds its row
-- gone, and closes it.
DELETE FROM transfer
 WHERE knit_id = ANY (%(knit_ids)s::uuid[])
   AND /*serves_nobody*/

-- name: serves_nobody

-- Of a transfer: it reads, and is not open although some time has passed, or not any more, or its
-- client has not been there for a while. Nobody gets anything through it.
(mode = 'read'
 AND (   state IN ('idle', 'closing')
      OR created_at < clock_timestamp()
                      - CASE state WHEN 'opening' THEN %(opening)s ELSE %(silence)s END))

-- name: users

-- The users of these Data: Runs (deleted ones too) and open transfers.
SELECT r.run_id, r.status = 'invalidated' AS is_tombstone
  FROM run r
 WHERE r.run_id IN (SELECT run_id FROM run_input WHERE knit_id = ANY (%(knit_ids)s::uuid[]))
 UNION ALL
SELECT NULL, false
  FROM transfer
 WHERE knit_id = ANY (%(knit_ids)s::uuid[])

-- name: remove_runs

-- Removes Runs whose Data have been removed, with their inputs and history.
WITH runs AS (
    SELECT unnest(%(run_ids)s::uuid[]) AS run_id
), inputs AS (
    DELETE FROM run_input USING runs WHERE run_input.run_id = runs.run_id
), events AS (
    DELETE FROM run_event USING runs WHERE run_event.run_id = runs.run_id
), deliveries AS (
    DELETE FROM hook_delivery USING runs WHERE hook_delivery.run_id = runs.run_id
)
DELETE FROM run USING runs WHERE run.run_id = runs.run_id

-- name: discard

-- Removes Data. Their volumes are to be deleted: not those that were only adopted, which it gives,
-- and not those of purged Data, which are or were among the discarded already.
WITH tags AS (
    DELETE FROM data_tag WHERE knit_id = ANY (%(knit_ids)s::uuid[])
), gone AS (
    DELETE FROM data WHERE knit_id = ANY (%(knit_ids)s::uuid[])
 RETURNING knit_id, volume, owned, purged_at
), thrown_away AS (
    INSERT INTO discarded (knit_id, volume, at)
    SELECT knit_id, volume, date_trunc('milliseconds', clock_timestamp())
      FROM gone
     WHERE owned
       AND purged_at IS NULL
)
SELECT volume FROM gone WHERE NOT owned AND purged_at IS NULL ORDER BY volume

-- name: retry

-- The next generation of a Run: it keeps its history and gets new Data.
WITH made AS (
    UPDATE run
       SET status = %(target)s,
           generation = generation + 1,
           holdup = NULL,
           updated_at = date_trunc('milliseconds', clock_timestamp()),
           exit_code = NULL, exit_message = NULL,
           admitted_at = NULL, workflow_started_at = NULL,
           priority = (SELECT p.priority FROM plan p WHERE p.plan_id = run.plan_id),
           image_digest = NULL, notes = NULL, used_resources = NULL, used_service_account = NULL,
           used_options = '{}', hook_env = NULL
     WHERE run_id = %(run_id)s
 RETURNING run_id, plan_id, generation, status, updated_at
), /*new_data*/, noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, actor)
    SELECT run_id, generation, updated_at, %(before)s, status, %(cause)s, %(actor)s
      FROM made
)
SELECT pg_notify(%(run_channel)s, run_id::text)::text || pg_notify(%(outbox_channel)s, '')::text
       AS notified
  FROM made

-- name: relaunches

-- How often a Run was launched again after a disruption since a user last retried it. Nothing else
-- leads back from there.
SELECT count(*) AS times
  FROM run_event
 WHERE run_id = %(run_id)s
   AND from_status IN ('starting', 'running')
   AND to_status IN ('waiting', 'deactivated')
   AND generation > COALESCE((SELECT max(generation)
                                FROM run_event
                               WHERE run_id = %(run_id)s
                                 AND from_status IN ('done', 'failed')
                                 AND to_status IN ('waiting', 'deactivated')), 0)

-- name: invalidate

-- A tombstone: the combination never runs again. One that was admitted may have a workflow; its
-- execution is over.
WITH moved AS (
    UPDATE run
       SET status = 'invalidated',
           holdup = NULL,
           generation = generation + CASE WHEN %(admitted)s THEN 1 ELSE 0 END,
           updated_at = date_trunc('milliseconds', clock_timestamp()),
           exit_code = NULL, exit_message = NULL, notes = NULL, hook_env = NULL
     WHERE run_id = %(run_id)s
 RETURNING run_id, generation, status, updated_at
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, actor)
    SELECT run_id, generation, updated_at, %(before)s, status, 'deleted', %(actor)s
      FROM moved
)
SELECT pg_notify(%(run_channel)s, run_id::text)::text || pg_notify(%(outbox_channel)s, '')::text
       AS notified
  FROM moved
