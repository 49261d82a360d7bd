-- name: notify

-- Wakes the Projector.
SELECT pg_notify(%(channel)s, '')

-- name: known

-- Which of these combinations have a Run already, whatever its status.
SELECT a.place
  FROM unnest(%(plan_ids)s::uuid[], %(hashes)s::bytea[])
       WITH ORDINALITY AS a (plan_id, hash, place)
  JOIN run r ON r.plan_id = a.plan_id AND r.assignment_hash = a.hash

-- name: new_data

-- Part of `create` and of a retry: the Data that the Runs in `made` are to make, with the tags of
-- the Plan's outputs.
planned AS MATERIALIZED (
    SELECT gen_random_uuid() AS knit_id, made.run_id, o.output_id
      FROM made
      JOIN plan_output o USING (plan_id)
), filled AS (
    INSERT INTO data (knit_id, run_id, output_id, volume)
    SELECT knit_id, run_id, output_id, %(volume_prefix)s || knit_id::text
      FROM planned
), labelled AS (
    INSERT INTO data_tag (tag_id, knit_id)
    SELECT t.tag_id, planned.knit_id
      FROM planned
      JOIN plan_output_tag t USING (output_id)
)

-- name: create

-- Makes the Runs of these combinations that have none, with their inputs, Data, tags and history.
-- Inserted in the order of the unique key, so that two processes cannot wait for each other.
-- The Plans are share-locked first: whether they are active, and their priority, cannot change
-- until these Runs are visible to whoever changes it. The Data are locked as the foreign key does
-- it, but before: one that is purged at this moment makes no Run, and one that has a Run is not
-- purged.
WITH usable AS MATERIALIZED (
    SELECT knit_id
      FROM data
     WHERE knit_id = ANY (%(knit_ids)s::uuid[])
       AND purged_at IS NULL
     ORDER BY knit_id
       FOR KEY SHARE
), assigned_to AS MATERIALIZED (
    SELECT run_id, position, knit_id
      FROM unnest(%(input_run_ids)s::uuid[], %(positions)s::smallint[], %(knit_ids)s::uuid[])
           AS a (run_id, position, knit_id)
), asked AS MATERIALIZED (
    SELECT a.run_id, a.plan_id, a.hash
      FROM unnest(%(run_ids)s::uuid[], %(plan_ids)s::uuid[], %(hashes)s::bytea[])
           AS a (run_id, plan_id, hash)
     WHERE NOT EXISTS (SELECT
                         FROM assigned_to t
                         LEFT JOIN usable u USING (knit_id)
                        WHERE t.run_id = a.run_id
                          AND u.knit_id IS NULL)
), plans AS MATERIALIZED (
    SELECT plan_id, active, priority
      FROM plan
     WHERE plan_id IN (SELECT plan_id FROM asked)
     ORDER BY plan_id
       FOR SHARE
), made AS (
    INSERT INTO run (run_id, plan_id, assignment_hash, status, priority, created_at, updated_at)
    SELECT a.run_id, a.plan_id, a.hash,
           CASE WHEN p.active THEN 'waiting' ELSE 'deactivated' END, p.priority, at, at
      FROM asked a
      JOIN plans p USING (plan_id)
     CROSS JOIN date_trunc('milliseconds', clock_timestamp()) AS at
     ORDER BY a.plan_id, a.hash
        ON CONFLICT (plan_id, assignment_hash) DO NOTHING
 RETURNING run_id, plan_id, generation, status, created_at
), assigned AS (
    INSERT INTO run_input (run_id, input_id, knit_id)
    SELECT made.run_id, i.input_id, a.knit_id
      FROM assigned_to a
      JOIN made USING (run_id)
      JOIN plan_input i ON i.plan_id = made.plan_id AND i.position = a.position
), /*new_data*/, noted AS (
    INSERT INTO run_event (run_id, generation, at, to_status, cause)
    SELECT run_id, generation, created_at, status, %(cause)s
      FROM made
)
SELECT count(*) AS made,
       CASE WHEN count(*) > 0 AND %(channel)s::text IS NOT NULL
            THEN pg_notify(%(channel)s::text, '')::text END AS notified
  FROM made
