-- knit's own rows, which are in the schema `knit`, as rows of Knitfab.

ANALYZE;

INSERT INTO tag_key (key) SELECT DISTINCT key FROM knit.tag ORDER BY key;
INSERT INTO tag (id, key_id, value)
SELECT t.tag_id, k.id, t.value FROM knit.tag t JOIN tag_key k USING (key);

INSERT INTO plan (plan_id, active, hash)
SELECT plan_id, active, coalesce(identity_hash, '') FROM knit.plan;
INSERT INTO plan_pseudo (plan_id, name)
SELECT plan_id, name FROM knit.plan WHERE name IS NOT NULL;
-- There an image has a tag and no digest.
INSERT INTO plan_image (plan_id, image, version)
SELECT plan_id, repository, coalesce(nullif(image_tag, ''), 'latest')
  FROM knit.plan
 WHERE name IS NULL;
INSERT INTO plan_resource (plan_id, type, value)
SELECT plan_id, r.key, r.value
  FROM knit.plan, jsonb_each_text(resources) AS r
 WHERE name IS NULL;
INSERT INTO plan_on_node (plan_id, mode, key, value)
SELECT plan_id, (n->>0)::on_node_mode, n->>1, n->>2
  FROM knit.plan, jsonb_array_elements(on_node) AS n;
INSERT INTO plan_annotation (plan_id, key, value)
SELECT plan_id, a->>0, a->>1 FROM knit.plan, jsonb_array_elements(annotations) AS a;
INSERT INTO plan_service_account (plan_id, service_account)
SELECT plan_id, service_account FROM knit.plan WHERE service_account IS NOT NULL;
INSERT INTO plan_entrypoint (plan_id, entrypoint)
SELECT plan_id, entrypoint FROM knit.plan WHERE entrypoint <> '{}';
INSERT INTO plan_args (plan_id, args) SELECT plan_id, args FROM knit.plan WHERE args <> '{}';

INSERT INTO input (input_id, plan_id, path) SELECT input_id, plan_id, path FROM knit.plan_input;
INSERT INTO output (output_id, plan_id, path) SELECT output_id, plan_id, path FROM knit.plan_output;
INSERT INTO log (plan_id, output_id) SELECT plan_id, output_id FROM knit.plan_output WHERE is_log;
INSERT INTO tag_input (tag_id, input_id) SELECT tag_id, input_id FROM knit.plan_input_tag;
INSERT INTO tag_output (tag_id, output_id) SELECT tag_id, output_id FROM knit.plan_output_tag;
INSERT INTO knitid_input (input_id, knit_id)
SELECT input_id, pinned_knit_id FROM knit.plan_input WHERE pinned_knit_id IS NOT NULL;
INSERT INTO timestamp_input (input_id, "timestamp")
SELECT input_id, pinned_timestamp FROM knit.plan_input WHERE pinned_timestamp IS NOT NULL;

INSERT INTO run (run_id, plan_id, status, updated_at)
SELECT run_id, plan_id, status::run_status, updated_at FROM knit.run;
INSERT INTO run_exit (run_id, exit_code, message)
SELECT run_id, exit_code, left(exit_message, 1024) FROM knit.run WHERE exit_code IS NOT NULL;
INSERT INTO worker (run_id, name)
SELECT run_id, 'worker-run-' || run_id
  FROM knit.run
 WHERE assignment_hash IS NOT NULL
   AND status NOT IN ('done', 'failed', 'invalidated');
INSERT INTO knit_id (knit_id) SELECT knit_id FROM knit.data;
INSERT INTO data (knit_id, volume_ref, plan_id, run_id, output_id)
SELECT d.knit_id, 'data-knitid-' || d.knit_id, r.plan_id, d.run_id, d.output_id
  FROM knit.data d
  JOIN knit.run r USING (run_id);
INSERT INTO assign (run_id, input_id, plan_id, knit_id)
SELECT i.run_id, i.input_id, r.plan_id, i.knit_id
  FROM knit.run_input i
  JOIN knit.run r USING (run_id);
INSERT INTO knit_timestamp (knit_id, "timestamp")
SELECT knit_id, "timestamp" FROM knit.data WHERE "timestamp" IS NOT NULL;
INSERT INTO tag_data (tag_id, knit_id) SELECT tag_id, knit_id FROM knit.data_tag;

-- Which Data satisfies which input; those that an event is about have yet to be combined.
WITH tagged AS (
    SELECT input_id, knit_id, count(*) AS tags
      FROM knit.plan_input_tag
      JOIN knit.data_tag USING (tag_id)
     GROUP BY input_id, knit_id
), candidate AS (
    SELECT input_id, knit_id
      FROM tagged
      JOIN knit.plan_input i USING (input_id)
     WHERE i.tag_count = tagged.tags
     UNION ALL
    SELECT i.input_id, d.knit_id
      FROM knit.plan_input i
      JOIN knit.data d ON i.pinned_knit_id = d.knit_id OR i.pinned_timestamp = d."timestamp"
     WHERE i.tag_count = 0
)
INSERT INTO nomination (knit_id, input_id, updated)
SELECT d.knit_id, i.input_id,
       d.knit_id IN (SELECT subject FROM knit.outbox WHERE kind IN ('data_ready', 'tags_changed'))
       OR i.plan_id IN (SELECT subject FROM knit.outbox WHERE kind = 'plan_registered')
  FROM candidate
  JOIN knit.plan_input i USING (input_id)
  JOIN knit.data d USING (knit_id)
  JOIN knit.run r ON r.run_id = d.run_id AND r.status = 'done'
 WHERE d.purged_at IS NULL
   AND (i.pinned_knit_id IS NULL OR i.pinned_knit_id = d.knit_id)
   AND (i.pinned_timestamp IS NULL OR i.pinned_timestamp = d."timestamp");

SELECT setval('tag_id_seq', greatest((SELECT max(id) FROM tag), 1)),
       setval('input_input_id_seq', greatest((SELECT max(input_id) FROM input), 1)),
       setval('output_output_id_seq', greatest((SELECT max(output_id) FROM output), 1));

DROP SCHEMA knit CASCADE;
