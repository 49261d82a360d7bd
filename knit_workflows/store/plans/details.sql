-- name: plans

-- Plans with their mountpoints (inputs and outputs in path order).
SELECT p.plan_id, p.name, p.repository, p.image_tag, p.image_digest, p.entrypoint, p.args,
       p.on_node, p.resources, p.service_account, p.annotations, p.active, p.priority,
       p.options,
       (SELECT json_agg(json_build_array(
                   i.input_id, i.path,
                   (SELECT json_agg(json_build_array(tag.key, tag.value))
                      FROM plan_input_tag t
                      JOIN tag USING (tag_id)
                     WHERE t.input_id = i.input_id),
                   i.pinned_knit_id, i.pinned_timestamp) ORDER BY i.position)
          FROM plan_input i
         WHERE i.plan_id = p.plan_id) AS inputs,
       (SELECT json_agg(json_build_array(
                   o.output_id, o.path,
                   (SELECT json_agg(json_build_array(tag.key, tag.value))
                      FROM plan_output_tag t
                      JOIN tag USING (tag_id)
                     WHERE t.output_id = o.output_id),
                   o.is_log) ORDER BY o.position)
          FROM plan_output o
         WHERE o.plan_id = p.plan_id) AS outputs
  FROM plan p
 WHERE p.plan_id = ANY (%(plan_ids)s::uuid[])
 ORDER BY p.plan_id

-- name: changeable

-- What can change in a Plan; identity and mountpoints never do.
SELECT plan_id, resources, service_account, annotations, active, priority, options
  FROM plan
 WHERE plan_id = ANY (%(plan_ids)s::uuid[])

-- name: links

-- Which outputs feed which inputs, where one of the two belongs to these Plans: all tags of the
-- input are among those of the output, and the input pins nothing.
WITH shared AS (
    SELECT it.input_id, ot.output_id, count(*) AS hits
      FROM plan_input i
      JOIN plan_input_tag it USING (input_id)
      JOIN plan_output_tag ot USING (tag_id)
     WHERE i.plan_id = ANY (%(plan_ids)s::uuid[])
     GROUP BY it.input_id, ot.output_id
     UNION
    SELECT it.input_id, ot.output_id, count(*)
      FROM plan_output o
      JOIN plan_output_tag ot USING (output_id)
      JOIN plan_input_tag it USING (tag_id)
     WHERE o.plan_id = ANY (%(plan_ids)s::uuid[])
     GROUP BY it.input_id, ot.output_id
)
SELECT i.input_id, i.plan_id AS consumer, o.output_id, o.plan_id AS producer
  FROM shared
  JOIN plan_input i ON i.input_id = shared.input_id AND i.tag_count = shared.hits
  JOIN plan_output o USING (output_id)
 WHERE i.pinned_knit_id IS NULL
   AND i.pinned_timestamp IS NULL
