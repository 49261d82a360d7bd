-- name: found

SELECT (SELECT count(*) FROM data) AS "Data",
       (SELECT count(*) FROM run) AS "Runs",
       (SELECT count(*) FROM plan WHERE name IS NULL) AS "Plans"

-- name: rebuilt

SELECT targets FROM audit WHERE method = 'REBUILD' ORDER BY entry_id DESC LIMIT 1

-- name: held

-- Volumes of no Data: of uploads to come, which become theirs, and those that are about to be deleted.
SELECT volume FROM warm_volume
 UNION ALL
SELECT volume FROM discarded

-- name: tags

INSERT INTO tag (digest, key, value)
SELECT digest, key, value
  FROM unnest(%(digests)s::bytea[], %(keys)s::text[], %(values)s::text[]) AS t (digest, key, value)
    ON CONFLICT (digest) DO NOTHING

-- name: plans

-- They are inactive: whoever has looked at them activates them.
INSERT INTO plan (plan_id, identity_hash, repository, image_tag, image_digest, entrypoint, args,
                  on_node, resources, service_account, active, priority, created_at, options)
SELECT plan_id, identity_hash, repository, image_tag, image_digest, entrypoint, args,
       on_node, resources, service_account, false, priority, created_at, options
  FROM jsonb_to_recordset(%(plans)s)
       AS p (plan_id uuid, identity_hash text, repository text, image_tag text, image_digest text,
             entrypoint text[], args text[], on_node jsonb, resources jsonb, service_account text,
             priority int, created_at timestamptz, options jsonb)

-- name: inputs

WITH asked AS MATERIALIZED (
    SELECT p.plan_id, i.*
      FROM jsonb_to_recordset(%(plans)s) AS p (plan_id uuid, inputs jsonb),
           jsonb_to_recordset(p.inputs)
           AS i (position smallint, path text, pinned_knit_id text, pinned_timestamp timestamptz,
                 tags jsonb)
), made AS (
    INSERT INTO plan_input (plan_id, position, path, tag_count, pinned_knit_id, pinned_timestamp)
    SELECT plan_id, position, path, jsonb_array_length(tags), pinned_knit_id, pinned_timestamp
      FROM asked
 RETURNING input_id, plan_id, position
)
INSERT INTO plan_input_tag (tag_id, input_id)
SELECT tag.tag_id, made.input_id
  FROM asked
  JOIN made USING (plan_id, position),
       jsonb_array_elements(asked.tags) AS t (pair)
  JOIN tag ON tag.key = pair->>0 AND tag.value = pair->>1

-- name: outputs

WITH asked AS MATERIALIZED (
    SELECT p.plan_id, o.*
      FROM jsonb_to_recordset(%(plans)s) AS p (plan_id uuid, outputs jsonb),
           jsonb_to_recordset(p.outputs)
           AS o (position smallint, path text, is_log boolean, tags jsonb)
), made AS (
    INSERT INTO plan_output (plan_id, position, path, is_log)
    SELECT plan_id, position, path, is_log
      FROM asked
 RETURNING output_id, plan_id, position
)
INSERT INTO plan_output_tag (tag_id, output_id)
SELECT tag.tag_id, made.output_id
  FROM asked
  JOIN made USING (plan_id, position),
       jsonb_array_elements(asked.tags) AS t (pair)
  JOIN tag ON tag.key = pair->>0 AND tag.value = pair->>1

-- name: runs

WITH made AS (
    INSERT INTO run (run_id, plan_id, assignment_hash, generation, status, exit_code, exit_message,
                     priority, admitted_at, workflow_started_at, created_at, updated_at)
    SELECT r.run_id, coalesce(r.plan_id, builtin.plan_id), decode(digest, 'hex'), generation, status,
           exit_code, exit_message, r.priority, created, created, created, ended
      FROM jsonb_to_recordset(%(runs)s)
           AS r (run_id uuid, plan_id uuid, digest text, generation int, status text,
                 exit_code smallint, exit_message text, priority int, created timestamptz,
                 ended timestamptz)
      JOIN plan builtin ON builtin.name = %(uploaded)s
 RETURNING run_id, generation, status, exit_code, exit_message, updated_at
)
INSERT INTO run_event (run_id, generation, at, to_status, cause, exit_code, exit_message)
SELECT run_id, generation, updated_at, status, %(cause)s, exit_code, exit_message
  FROM made

-- name: data

WITH made AS (
    INSERT INTO data (knit_id, run_id, output_id, volume, timestamp, owned, purged_at)
    SELECT d.knit_id, d.run_id, o.output_id, d.volume, r.updated_at, d.owned,
           CASE WHEN d.is_gone THEN date_trunc('milliseconds', clock_timestamp()) END
      FROM jsonb_to_recordset(%(data)s)
           AS d (knit_id uuid, run_id uuid, position smallint, volume text, owned boolean,
                 is_gone boolean)
      JOIN run r USING (run_id)
      JOIN plan_output o ON o.plan_id = r.plan_id AND (o.position = d.position OR d.position IS NULL)
 RETURNING knit_id, output_id, timestamp
)
INSERT INTO data_tag (tag_id, knit_id, timestamp)
SELECT t.tag_id, made.knit_id, made.timestamp
  FROM made
  JOIN plan_output_tag t USING (output_id)

-- name: edges

INSERT INTO run_input (run_id, input_id, knit_id)
SELECT e.run_id, i.input_id, e.knit_id
  FROM jsonb_to_recordset(%(edges)s) AS e (run_id uuid, position smallint, knit_id uuid)
  JOIN run r USING (run_id)
  JOIN plan_input i ON i.plan_id = r.plan_id AND i.position = e.position

-- name: asked_tags

-- What a Run has used had the tags that its Plan asks for.
INSERT INTO data_tag (tag_id, knit_id, timestamp)
SELECT DISTINCT t.tag_id, d.knit_id, d.timestamp
  FROM run_input ri
  JOIN plan_input_tag t USING (input_id)
  JOIN data d ON d.knit_id = ri.knit_id
    ON CONFLICT DO NOTHING

-- name: record

INSERT INTO audit (at, subject, actor, method, route, targets, status)
VALUES (date_trunc('milliseconds', clock_timestamp()), 'database:' || current_user, %(by)s,
        'REBUILD', 'rebuild', %(targets)s, 200)
