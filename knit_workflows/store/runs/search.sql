-- name: runs

-- Runs by the time of the last change, then id: the first ones of each range of an index, merged.
SELECT found.run_id
  FROM unnest(%(statuses)s::text[]) AS of_status (status)/*of_plan*/
 CROSS JOIN LATERAL (
    SELECT r.run_id, r.updated_at
      FROM run r
     WHERE /*where*/
     ORDER BY r.updated_at, r.run_id
     LIMIT %(limit)s
 ) AS found
 ORDER BY found.updated_at, found.run_id
 LIMIT %(limit)s

-- name: runs_of_data

-- The same among the Runs of some Data, which are looked up first.
SELECT r.run_id
  FROM run r
 WHERE /*where*/
 ORDER BY r.updated_at, r.run_id
 LIMIT %(limit)s
