-- name: runs

-- Runs by id.
SELECT r.run_id, r.plan_id, r.generation, r.status, r.updated_at, r.exit_code, r.exit_message,
       r.holdup, clock_timestamp() AS seen_at,
       (SELECT before_urls <> '{}' FROM hooks) AS has_hooks,
       r.priority, r.admitted_at, r.workflow_started_at,
       r.used_resources, r.used_service_account, r.used_options, r.image_digest, r.notes
  FROM run r
 WHERE r.run_id = ANY (%(run_ids)s::uuid[])

-- name: run_inputs

-- Which Data these Runs have at which inputs.
SELECT run_id, input_id, knit_id
  FROM run_input
 WHERE run_id = ANY (%(run_ids)s::uuid[])

-- name: run_outputs

-- Which Data these Runs make at which outputs.
SELECT run_id, output_id, knit_id
  FROM data
 WHERE run_id = ANY (%(run_ids)s::uuid[])

-- name: data

-- Data with the Runs that make them and their user tags.
SELECT d.knit_id, d.output_id, d.timestamp, d.purged_at,
       CASE WHEN NOT d.owned THEN d.volume END AS adopted_volume,
       r.run_id, r.plan_id, r.generation, r.status, r.updated_at, r.exit_code, r.exit_message,
       (SELECT json_agg(json_build_array(tag.key, tag.value))
          FROM data_tag dt
          JOIN tag USING (tag_id)
         WHERE dt.knit_id = d.knit_id) AS tags
  FROM data d
  JOIN run r USING (run_id)
 WHERE d.knit_id = ANY (%(knit_ids)s::uuid[])

-- name: downstreams

-- The Runs that use these Data, oldest first; deleted ones are not shown.
SELECT ri.knit_id, ri.input_id,
       r.run_id, r.plan_id, r.generation, r.status, r.updated_at, r.exit_code, r.exit_message
  FROM run_input ri
  JOIN run r USING (run_id)
  JOIN plan_input i USING (input_id)
 WHERE ri.knit_id = ANY (%(knit_ids)s::uuid[])
   AND r.status <> 'invalidated'
 ORDER BY r.created_at, r.run_id, i.position

-- name: nominations

-- The inputs that each of these Data fills now; none while its Run is not done, or once purged. As
-- in `links` of Plans, an input starts from the one of its tags that the fewest of these Data have.
WITH final AS MATERIALIZED (
    SELECT d.knit_id, d.timestamp
      FROM data d
      JOIN run r USING (run_id)
     WHERE d.knit_id = ANY (%(knit_ids)s::uuid[])
       AND d.purged_at IS NULL
       AND r.status = 'done'
), had AS MATERIALIZED (
    SELECT final.knit_id, final.timestamp, dt.tag_id
      FROM final
      JOIN data_tag dt USING (knit_id)
), offered AS MATERIALIZED (
    SELECT tag_id, count(*) AS data FROM had GROUP BY tag_id
), touched AS MATERIALIZED (
    SELECT t.input_id, count(*) AS hits,
           (array_agg(t.tag_id ORDER BY o.data, t.tag_id))[1] AS rarest
      FROM offered o
      JOIN plan_input_tag t USING (tag_id)
     GROUP BY t.input_id
), takers AS MATERIALIZED (
    SELECT i.*, touched.rarest
      FROM touched
      JOIN plan_input i ON i.input_id = touched.input_id AND i.tag_count = touched.hits
)
SELECT had.knit_id, i.plan_id, i.input_id, i.position
  FROM takers i
  JOIN had ON had.tag_id = i.rarest
 CROSS JOIN LATERAL (
    SELECT count(*) AS hits
      FROM plan_input_tag t
      JOIN data_tag x ON x.tag_id = t.tag_id AND x.knit_id = had.knit_id
     WHERE t.input_id = i.input_id
 ) probed
 WHERE i.tag_count = probed.hits
   AND (i.pinned_knit_id IS NULL OR i.pinned_knit_id = had.knit_id::text)
   AND (i.pinned_timestamp IS NULL OR i.pinned_timestamp = had.timestamp)
 UNION ALL
SELECT final.knit_id, i.plan_id, i.input_id, i.position
  FROM final
  JOIN plan_input i ON i.pinned_knit_id = final.knit_id::text
 WHERE i.tag_count = 0
   AND (i.pinned_timestamp IS NULL OR i.pinned_timestamp = final.timestamp)
 UNION ALL
SELECT final.knit_id, i.plan_id, i.input_id, i.position
  FROM final
  JOIN plan_input i ON i.pinned_timestamp = final.timestamp
 WHERE i.tag_count = 0
   AND i.pinned_knit_id IS NULL
 ORDER BY plan_id, position
