-- name: lock

-- One registration at a time: the search for cycles must see every Plan registered before.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: equivalent

-- The Plan with this identity.
SELECT plan_id FROM plan WHERE identity_hash = %(identity_hash)s

-- name: graph

-- The tags of every input and output, as numbers; pinned inputs take part in no relation.
SELECT i.plan_id, true AS is_input,
       ARRAY(SELECT t.tag_id FROM plan_input_tag t WHERE t.input_id = i.input_id) AS tag_ids
  FROM plan_input i
 WHERE i.pinned_knit_id IS NULL
   AND i.pinned_timestamp IS NULL
 UNION ALL
SELECT o.plan_id, false,
       ARRAY(SELECT t.tag_id FROM plan_output_tag t WHERE t.output_id = o.output_id)
  FROM plan_output o

-- name: insert

-- A Plan with its mountpoints and their tags.
WITH made AS (
    INSERT INTO plan (plan_id, identity_hash, repository, image_tag, image_digest, entrypoint, args,
                      on_node, resources, service_account, annotations, active, priority, options, created_at)
    VALUES (%(plan_id)s, %(identity_hash)s, %(repository)s, %(image_tag)s, %(image_digest)s,
            %(entrypoint)s::text[], %(args)s::text[], %(on_node)s, %(resources)s, %(service_account)s, %(annotations)s,
            %(active)s, %(priority)s, %(options)s, date_trunc('milliseconds', clock_timestamp()))
), input AS (
    INSERT INTO plan_input (plan_id, position, path, tag_count, pinned_knit_id, pinned_timestamp)
    SELECT %(plan_id)s, i.*
      FROM unnest(%(input_positions)s::smallint[], %(input_paths)s::text[],
                  %(tag_counts)s::int[], %(pinned_knit_ids)s::text[],
                  %(pinned_timestamps)s::timestamptz[]) AS i
 RETURNING input_id, position
), asked AS (
    INSERT INTO plan_input_tag (tag_id, input_id)
    SELECT t.tag_id, input.input_id
      FROM unnest(%(input_tag_positions)s::smallint[], %(input_tag_ids)s::bigint[])
           AS t (position, tag_id)
      JOIN input USING (position)
), output AS (
    INSERT INTO plan_output (plan_id, position, path, is_log)
    SELECT %(plan_id)s, o.*
      FROM unnest(%(output_positions)s::smallint[], %(output_paths)s::text[],
                  %(are_logs)s::boolean[]) AS o
 RETURNING output_id, position
)
INSERT INTO plan_output_tag (tag_id, output_id)
SELECT t.tag_id, output.output_id
  FROM unnest(%(output_tag_positions)s::smallint[], %(output_tag_ids)s::bigint[])
       AS t (position, tag_id)
  JOIN output USING (position)
