-- name: lock

-- One process admits at a time: counting and admitting must not interleave. Taken in a statement
-- of its own, so that the next one counts what the process before has admitted.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: runs_to_start

-- Part of other statements: Runs, and what the start of a workflow needs to know of them.
SELECT r.run_id, r.generation, r.plan_id, p.repository, p.image_tag, p.image_digest,
       p.entrypoint || p.args AS command,
       ARRAY(SELECT ri.knit_id::text
               FROM run_input ri
               JOIN plan_input i USING (input_id)
              WHERE ri.run_id = r.run_id
              ORDER BY i.position) AS input_ids
  FROM run r
  JOIN plan p USING (plan_id)

-- name: startable

-- Admitted Runs whose workflow is not known to have been started, however long ago.
/*runs_to_start*/
 WHERE r.admitted_at IS NOT NULL
   AND r.workflow_started_at IS NULL
   AND r.status NOT IN ('done', 'failed', 'invalidated')
 ORDER BY r.priority DESC, r.created_at, r.run_id

-- name: started

-- Records that the workflows of these Runs exist; stops that waited for that can be delivered.
WITH named AS (
    UPDATE run
       SET workflow_started_at = date_trunc('milliseconds', clock_timestamp())
      FROM unnest(%(run_ids)s::uuid[], %(generations)s::int[]) AS key (run_id, generation)
     WHERE run.run_id = key.run_id
       AND run.generation = key.generation
       AND run.workflow_started_at IS NULL
 RETURNING run.run_id
)
SELECT pg_notify(%(channel)s, '')
 WHERE EXISTS (SELECT FROM named JOIN outbox o ON o.subject = named.run_id
                WHERE o.kind = 'stop_run')

-- name: has_stops

-- Whether there is anything that the statements below could find.
SELECT EXISTS (SELECT FROM outbox WHERE kind = 'stop_run')
    OR EXISTS (SELECT
                 FROM run
                WHERE status = 'aborting'
                  AND admitted_at IS NULL
                  AND assignment_hash IS NOT NULL) AS found

-- name: stop_requests

-- Stops to deliver; those that came too late (the Run is final or in a later generation) go.
WITH stale AS (
    DELETE FROM outbox o
     USING run r
     WHERE o.kind = 'stop_run'
       AND r.run_id = o.subject
       AND (r.status IN ('done', 'failed', 'invalidated')
            OR r.generation <> (o.payload ->> 'generation')::int)
)
SELECT o.event_id, r.run_id, r.generation, (o.payload ->> 'fail')::boolean AS fail
  FROM outbox o
  JOIN run r ON r.run_id = o.subject
 WHERE o.kind = 'stop_run'
   AND r.workflow_started_at IS NOT NULL
   AND r.status NOT IN ('done', 'failed', 'invalidated')
   AND r.generation = (o.payload ->> 'generation')::int
 ORDER BY o.event_id

-- name: close_event

-- A delivered event.
DELETE FROM outbox WHERE event_id = %(event_id)s

-- name: unstarted

-- Stopped Runs that were never admitted: nothing else ends them. Uploads end with their transfers.
SELECT run_id, generation
  FROM run
 WHERE status = 'aborting'
   AND admitted_at IS NULL
   AND assignment_hash IS NOT NULL
 LIMIT %(limit)s
