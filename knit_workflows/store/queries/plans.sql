-- name: lock
-- One registration at a time: the search for cycles must see every Plan registered before.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: equivalent
-- The Plan with this identity.
SELECT plan_id FROM plan WHERE identity_hash = %(identity_hash)s

-- name: graph
-- What every Plan asks for and gives, as numbers of tags; inputs with a pin relate to nothing.
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
                      on_node, resources, service_account, annotations, active, priority, created_at)
    VALUES (%(plan_id)s, %(identity_hash)s, %(repository)s, %(image_tag)s, %(image_digest)s,
            %(entrypoint)s::text[], %(args)s::text[], %(on_node)s, %(resources)s, %(service_account)s, %(annotations)s,
            %(active)s, %(priority)s, date_trunc('milliseconds', clock_timestamp()))
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

-- name: announce
-- The Plan's Runs are to be made.
INSERT INTO outbox (kind, subject, created_at)
VALUES ('plan_registered', %(plan_id)s, date_trunc('milliseconds', clock_timestamp()))

-- name: set_active
-- Locks the Plan against the creation of Runs, which reads this under a share lock.
UPDATE plan
   SET active = %(active)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: move_runs
-- The Plan's Runs that have not begun, one way or the other. One that was admitted already may
-- have a workflow: its execution is over, it will get another one when the Plan is active again,
-- in the place in the queue that the Plan has by then.
WITH cur AS MATERIALIZED (
    SELECT run_id, status, admitted_at
      FROM run
     WHERE plan_id = %(plan_id)s
       AND status = %(source)s
       FOR NO KEY UPDATE
), moved AS (
    UPDATE run
       SET status = %(target)s,
           generation = run.generation
                        + CASE WHEN cur.admitted_at IS NULL THEN 0 ELSE 1 END,
           admitted_at = NULL,
           workflow_started_at = NULL,
           holdup = NULL,
           priority = (SELECT p.priority FROM plan p WHERE p.plan_id = run.plan_id)
      FROM cur
     WHERE run.run_id = cur.run_id
       AND cur.status = %(source)s
 RETURNING run.run_id, run.generation
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause)
    SELECT run_id, generation, date_trunc('milliseconds', clock_timestamp()),
           %(source)s, %(target)s, %(cause)s
      FROM moved
)
SELECT count(pg_notify(%(run_channel)s, run_id::text)::text) FROM moved

-- name: change_resources
-- What is unset falls back to its default, if it has one; what is set wins.
UPDATE plan
   SET resources = %(defaults)s::jsonb || (resources - %(unset)s::text[]) || %(set)s::jsonb
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: lock_annotations
-- The Plan's notes, kept from every other change until this transaction ends.
SELECT annotations
  FROM plan
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
   FOR NO KEY UPDATE

-- name: set_annotations
-- All notes of a Plan.
UPDATE plan SET annotations = %(annotations)s WHERE plan_id = %(plan_id)s

-- name: set_service_account
-- Whose token the pods of later launches get.
UPDATE plan
   SET service_account = %(service_account)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: set_priority
-- Waits for those who are creating Runs of the Plan, which take their priority from it.
UPDATE plan
   SET priority = %(priority)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: move_in_queue
-- Some of the Plan's Runs that have no place yet (deactivated ones may wait again) get the priority
-- that the Plan has now, whoever set it. Each part has a range of an index: neither the Plan's
-- history is looked at, nor what has been moved already.
WITH wanted AS MATERIALIZED (
    SELECT plan_id, priority
      FROM plan
     WHERE plan_id = %(plan_id)s
       FOR SHARE
), queued AS (
    SELECT r.run_id
      FROM wanted w
      JOIN run r ON r.plan_id = w.plan_id AND r.priority < w.priority
     WHERE r.status = 'waiting'
       AND r.admitted_at IS NULL
     UNION ALL
    SELECT r.run_id
      FROM wanted w
      JOIN run r ON r.plan_id = w.plan_id AND r.priority > w.priority
     WHERE r.status = 'waiting'
       AND r.admitted_at IS NULL
     UNION ALL
    SELECT r.run_id
      FROM wanted w
      JOIN run r ON r.plan_id = w.plan_id AND r.priority <> w.priority
     WHERE r.status = 'deactivated'
     LIMIT %(most)s
)
UPDATE run
   SET priority = (SELECT priority FROM wanted)
 WHERE run_id = ANY (ARRAY(SELECT run_id FROM queued))
   AND status IN ('waiting', 'deactivated')
   AND admitted_at IS NULL
   AND priority <> (SELECT priority FROM wanted)

-- name: plans
-- Plans with their mountpoints (inputs and outputs in path order).
SELECT p.plan_id, p.name, p.repository, p.image_tag, p.image_digest, p.entrypoint, p.args,
       p.on_node, p.resources, p.service_account, p.annotations, p.active, p.priority,
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
-- What can change in a Plan: the rest of it, identity and mountpoints, never does.
SELECT plan_id, resources, service_account, annotations, active, priority
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

-- name: find
-- Plans by id; the conditions are put in where the comment stands.
SELECT p.plan_id
  FROM plan p
 WHERE /*where*/ true
 ORDER BY p.plan_id
 LIMIT %(limit)s

-- name: some_input
-- Some input of the Plan has all these tags and pins.
EXISTS (SELECT FROM plan_input i
         WHERE i.plan_id = p.plan_id
           AND (%(pinned_knit_id)s::text IS NULL OR i.pinned_knit_id = %(pinned_knit_id)s)
           AND (%(pinned_timestamp)s::timestamptz IS NULL
                OR i.pinned_timestamp = %(pinned_timestamp)s)
           AND cardinality(%(input_tag_ids)s::bigint[]) =
               (SELECT count(*) FROM plan_input_tag t
                 WHERE t.input_id = i.input_id
                   AND t.tag_id = ANY (%(input_tag_ids)s::bigint[])))

-- name: some_output
-- Some output or the log of the Plan has all these tags.
EXISTS (SELECT FROM plan_output o
         WHERE o.plan_id = p.plan_id
           AND cardinality(%(output_tag_ids)s::bigint[]) =
               (SELECT count(*) FROM plan_output_tag t
                 WHERE t.output_id = o.output_id
                   AND t.tag_id = ANY (%(output_tag_ids)s::bigint[])))
