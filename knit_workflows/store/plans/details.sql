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
--
-- What all Plans have in common, as the tag of a project, must not pair all of them. So each input
-- starts from the one of its tags that the fewest outputs have (counted up to a bound), and probes
-- the rest with the outputs of that one. `consumers` are the inputs of these Plans; `takers` those
-- of any Plan all of whose tags some output of these Plans has, be it not the same one.
WITH consumers AS MATERIALIZED (
    SELECT input_id, tag_count
      FROM plan_input
     WHERE plan_id = ANY (%(plan_ids)s::uuid[])
       AND pinned_knit_id IS NULL
       AND pinned_timestamp IS NULL
), consumed AS MATERIALIZED (
    SELECT t.tag_id,
           (SELECT count(*)
              FROM (SELECT FROM plan_output_tag x WHERE x.tag_id = t.tag_id LIMIT 10000) few)
               AS outputs
      FROM (SELECT DISTINCT tag_id FROM consumers JOIN plan_input_tag USING (input_id)) t
), starts AS MATERIALIZED (
    SELECT t.input_id, (array_agg(t.tag_id ORDER BY c.outputs, t.tag_id))[1] AS rarest
      FROM consumers
      JOIN plan_input_tag t USING (input_id)
      JOIN consumed c USING (tag_id)
     GROUP BY t.input_id
), given AS MATERIALIZED (
    SELECT output_id, t.tag_id
      FROM plan_output o
      JOIN plan_output_tag t USING (output_id)
     WHERE o.plan_id = ANY (%(plan_ids)s::uuid[])
), offered AS MATERIALIZED (
    SELECT tag_id, count(*) AS outputs FROM given GROUP BY tag_id
), touched AS MATERIALIZED (
    SELECT t.input_id, count(*) AS hits,
           (array_agg(t.tag_id ORDER BY o.outputs, t.tag_id))[1] AS rarest
      FROM offered o
      JOIN plan_input_tag t USING (tag_id)
     GROUP BY t.input_id
), takers AS MATERIALIZED (
    SELECT i.input_id, touched.rarest
      FROM touched
      JOIN plan_input i ON i.input_id = touched.input_id AND i.tag_count = touched.hits
     WHERE i.pinned_knit_id IS NULL
       AND i.pinned_timestamp IS NULL
), possible AS MATERIALIZED (
    SELECT starts.input_id, x.output_id
      FROM starts
      JOIN plan_output_tag x ON x.tag_id = starts.rarest
     UNION
    SELECT takers.input_id, given.output_id
      FROM takers
      JOIN given ON given.tag_id = takers.rarest
)
SELECT i.input_id, i.plan_id AS consumer, o.output_id, o.plan_id AS producer
  FROM possible
  JOIN plan_input i USING (input_id)
  JOIN plan_output o USING (output_id)
 CROSS JOIN LATERAL (
    SELECT count(*) AS hits
      FROM plan_input_tag t
      JOIN plan_output_tag x ON x.tag_id = t.tag_id AND x.output_id = possible.output_id
     WHERE t.input_id = possible.input_id
 ) had
 WHERE i.tag_count = had.hits
