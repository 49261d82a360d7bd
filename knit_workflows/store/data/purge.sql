-- name: lock

-- A Data, locked against new uses, which wait for this transaction.
SELECT d.volume, d.owned, d.purged_at, r.run_id, r.status
  FROM data d
  JOIN run r USING (run_id)
 WHERE d.knit_id = %(knit_id)s
   FOR UPDATE OF d

-- name: readers

-- What reads a Data, or writes it: Runs that have not ended, and open transfers (no id). In a dry
-- run transfers that serve nobody are still there.
SELECT r.run_id, r.status AS doing
  FROM run_input ri
  JOIN run r USING (run_id)
 WHERE ri.knit_id = %(knit_id)s
   AND r.status NOT IN ('done', 'failed', 'invalidated')
 UNION ALL
SELECT NULL, mode
  FROM transfer
 WHERE knit_id = %(knit_id)s
   AND NOT (%(dry_run)s AND /*serves_nobody*/)
 ORDER BY run_id
 LIMIT 1

-- name: purge

-- The content is gone from now on: its volume is to be deleted, unless it was only adopted. Who did
-- it is in the history of the Run that has made it.
WITH gone AS (
    UPDATE data
       SET purged_at = date_trunc('milliseconds', clock_timestamp())
     WHERE knit_id = %(knit_id)s
 RETURNING knit_id, run_id, volume, owned, purged_at
), thrown_away AS (
    INSERT INTO discarded (knit_id, volume, at)
    SELECT knit_id, volume, purged_at
      FROM gone
     WHERE owned
)
INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, actor)
SELECT r.run_id, r.generation, gone.purged_at, r.status, r.status,
       'content of Data ' || gone.knit_id || ' purged', %(actor)s
  FROM gone
  JOIN run r USING (run_id)
