-- name: now

SELECT clock_timestamp() AS at

-- name: edges

-- Runs of Plans of users with the Data at their inputs, by id.
SELECT r.run_id, r.assignment_hash AS digest,
       (SELECT array_agg(ri.knit_id::text ORDER BY i.position)
          FROM plan_input i
          LEFT JOIN run_input ri ON ri.input_id = i.input_id AND ri.run_id = r.run_id
         WHERE i.plan_id = r.plan_id) AS inputs
  FROM run r
 WHERE r.assignment_hash IS NOT NULL
   AND r.status <> 'invalidated'
   AND (%(after)s::uuid IS NULL OR r.run_id > %(after)s)
 ORDER BY r.run_id
 LIMIT %(limit)s

-- name: lost_outputs

-- Outputs without Data of Runs that have been launched.
SELECT r.run_id, CASE WHEN o.is_log THEN '' ELSE o.path END AS path
  FROM run r
  JOIN plan_output o USING (plan_id)
  LEFT JOIN data d ON d.run_id = r.run_id AND d.output_id = o.output_id
 WHERE r.status IN ('ready', 'starting', 'running', 'completing', 'done')
   AND d.knit_id IS NULL
 ORDER BY r.run_id, o.position
 LIMIT %(limit)s

-- name: kept_data

-- Data whose content is kept, by id.
SELECT d.knit_id, d.run_id, d.volume, d.owned, p.name IS NULL AS was_made
  FROM data d
  JOIN run r USING (run_id)
  JOIN plan p USING (plan_id)
 WHERE r.status = 'done'
   AND r.updated_at < %(before)s
   AND d.purged_at IS NULL
   AND (%(after)s::uuid IS NULL OR d.knit_id > %(after)s)
 ORDER BY d.knit_id
 LIMIT %(limit)s

-- name: known_by_id

-- Which of these volumes are those of the Data that they are named after.
SELECT volume FROM data
 WHERE knit_id = ANY (%(knit_ids)s::uuid[]) AND volume = ANY (%(volumes)s) AND purged_at IS NULL
 UNION ALL
SELECT volume FROM discarded
 WHERE knit_id = ANY (%(knit_ids)s::uuid[]) AND volume = ANY (%(volumes)s)
 UNION ALL
SELECT volume FROM warm_volume WHERE volume = ANY (%(volumes)s)

-- name: known_by_name

-- Which of these volumes are known whatever their name says: of uploads into volumes that were
-- there before. It reads the table, so it is asked for few.
SELECT volume FROM data WHERE volume = ANY (%(volumes)s) AND purged_at IS NULL
 UNION ALL
SELECT volume FROM discarded WHERE volume = ANY (%(volumes)s)

-- name: present

SELECT run_id FROM run WHERE run_id = ANY (%(run_ids)s::uuid[])

-- name: unstarted

-- Runs that were admitted and never started.
SELECT run_id, generation
  FROM run
 WHERE admitted_at < clock_timestamp() - %(older_than)s
   AND workflow_started_at IS NULL
   AND status = 'waiting'
 ORDER BY run_id
 LIMIT %(limit)s
