-- name: announce

-- Has the Plan's Runs created.
INSERT INTO outbox (kind, subject, created_at)
VALUES ('plan_registered', %(plan_id)s, date_trunc('milliseconds', clock_timestamp()))

-- name: change_resources

-- Unset resources fall back to their defaults, if any; set ones win.
UPDATE plan
   SET resources = %(defaults)s::jsonb || (resources - %(unset)s::text[]) || %(set)s::jsonb
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: lock_annotations

-- The Plan's annotations, locked until this transaction ends.
SELECT annotations
  FROM plan
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
   FOR NO KEY UPDATE

-- name: set_annotations

-- Replaces all annotations of a Plan.
UPDATE plan SET annotations = %(annotations)s WHERE plan_id = %(plan_id)s

-- name: set_options

-- Not for built-in Plans.
UPDATE plan
   SET options = %(options)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
RETURNING plan_id

-- name: set_service_account

-- The service account of later launches.
UPDATE plan
   SET service_account = %(service_account)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: set_priority

-- Waits for transactions that create Runs of the Plan, which take their priority from it.
UPDATE plan
   SET priority = %(priority)s
 WHERE plan_id = %(plan_id)s
   AND name IS NULL
 RETURNING plan_id

-- name: move_in_queue

-- Gives some of the Plan's unadmitted Runs (deactivated ones may wait again) the priority that the
-- Plan has now, whoever set it. Each part reads a range of an index: neither the Plan's finished
-- Runs nor those that were changed already.
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

-- name: find

-- Plans by id.
SELECT p.plan_id
  FROM plan p
 WHERE /*where*/
 ORDER BY p.plan_id
 LIMIT %(limit)s

-- name: within

-- The Plans of users each of whose inputs and outputs, the log too, has one of these tags.
SELECT p.plan_id
  FROM plan p
 WHERE p.name IS NULL
   AND NOT EXISTS (SELECT
                     FROM plan_input i
                    WHERE i.plan_id = p.plan_id
                      AND NOT EXISTS (SELECT
                                        FROM plan_input_tag t
                                       WHERE t.input_id = i.input_id
                                         AND t.tag_id = ANY (%(tag_ids)s::bigint[])))
   AND NOT EXISTS (SELECT
                     FROM plan_output o
                    WHERE o.plan_id = p.plan_id
                      AND NOT EXISTS (SELECT
                                        FROM plan_output_tag t
                                       WHERE t.output_id = o.output_id
                                         AND t.tag_id = ANY (%(tag_ids)s::bigint[])))

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
