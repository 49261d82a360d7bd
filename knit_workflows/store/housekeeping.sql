-- name: discarded

-- Volumes to delete, in the order in which they were discarded.
SELECT knit_id, volume
  FROM discarded
 WHERE at < clock_timestamp() - %(older_than)s
 ORDER BY at, knit_id
 LIMIT %(limit)s

-- name: postponed

-- This volume could not be deleted: others come first, and it waits once more for its time.
UPDATE discarded
   SET at = date_trunc('milliseconds', clock_timestamp())
 WHERE knit_id = %(knit_id)s

-- name: collected

-- These volumes have been deleted.
DELETE FROM discarded WHERE knit_id = ANY (%(knit_ids)s::uuid[])

-- name: under_way

-- Runs that should have a workflow and have not changed for a while, by id.
/*runs_to_start*/
 WHERE r.admitted_at IS NOT NULL
   AND r.status NOT IN ('done', 'failed', 'invalidated')
   AND r.workflow_started_at < clock_timestamp() - %(older_than)s
   AND r.updated_at < clock_timestamp() - %(older_than)s
   AND (%(after)s::uuid IS NULL OR r.run_id > %(after)s)
 ORDER BY r.run_id
 LIMIT %(limit)s

-- name: over

-- Which of these executions have been over for a while: their Run is final, or in a later
-- generation. Unknown Runs are left out: they may belong to another installation.
SELECT key.run_id, key.generation
  FROM unnest(%(run_ids)s::uuid[], %(generations)s::int[]) AS key (run_id, generation)
  JOIN run r USING (run_id)
 WHERE (r.generation > key.generation OR r.status IN ('done', 'failed', 'invalidated'))
   AND r.updated_at < clock_timestamp() - %(older_than)s

-- name: stale_transfers

-- Transfers opened some time ago, oldest first.
SELECT t.transfer_id, t.knit_id, d.run_id, d.volume, t.mode, t.token, t.endpoint
  FROM transfer t
  JOIN data d USING (knit_id)
 WHERE t.created_at < clock_timestamp() - %(older_than)s
 ORDER BY t.created_at, t.transfer_id

-- name: unfinished_imports

-- Imports whose time is over, and those that were ended or stopped a while ago, oldest first. Those
-- that have been admitted have a workflow, which ends them once their hooks agree.
SELECT r.run_id, r.generation, r.status
  FROM plan p
  JOIN run r USING (plan_id)
 WHERE p.name = %(plan)s
   AND (r.status = 'running' AND r.created_at < clock_timestamp() - %(window)s
        OR r.status IN ('completing', 'aborting')
           AND r.updated_at < clock_timestamp() - %(older_than)s)
   AND r.status IN ('running', 'completing', 'aborting')
   AND r.admitted_at IS NULL
 ORDER BY r.created_at, r.run_id
 LIMIT %(limit)s
