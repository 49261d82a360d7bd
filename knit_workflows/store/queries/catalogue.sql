-- name: data_place
-- Where a Data stands in that order.
SELECT timestamp FROM data WHERE knit_id = %(knit_id)s

-- name: lock_data
-- Changes of one Data's tags come one after the other.
SELECT knit_id FROM data WHERE knit_id = %(knit_id)s FOR NO KEY UPDATE

-- name: remove_tags
-- Takes away tags by pair and by key.
DELETE FROM data_tag dt
 USING tag
 WHERE dt.knit_id = %(knit_id)s
   AND tag.tag_id = dt.tag_id
   AND (tag.digest = ANY (%(digests)s::bytea[]) OR tag.key = ANY (%(keys)s::text[]))

-- name: add_tags
-- Puts tags on a Data, which is to be matched anew. Always, done or not: its Run may be getting
-- done in this moment, and be matched before these tags are there.
WITH added AS (
    INSERT INTO data_tag (tag_id, knit_id, timestamp)
    SELECT wanted.tag_id, d.knit_id, d.timestamp
      FROM unnest(%(tag_ids)s::bigint[]) AS wanted (tag_id), data d
     WHERE d.knit_id = %(knit_id)s
        ON CONFLICT DO NOTHING
), queued AS (
    INSERT INTO outbox (kind, subject, created_at)
    VALUES ('tags_changed', %(knit_id)s, date_trunc('milliseconds', clock_timestamp()))
)
SELECT pg_notify(%(outbox_channel)s, '')

-- name: run_place
-- Where a Run stands in that order.
SELECT updated_at FROM run WHERE run_id = %(run_id)s

-- name: run_status
-- How far a Run is.
SELECT status FROM run WHERE run_id = %(run_id)s

-- name: run_events
-- Every change of a Run's status, oldest first. No row: there is no such Run.
SELECT e.at, e.generation, e.from_status, e.to_status, e.cause, e.exit_code, e.exit_message
  FROM run r
  LEFT JOIN run_event e USING (run_id)
 WHERE r.run_id = %(run_id)s
 ORDER BY e.event_id

-- name: lock_run
-- A Run, locked against every other change.
SELECT run_id, generation, status, admitted_at, assignment_hash IS NOT NULL AS projected
  FROM run
 WHERE run_id = %(run_id)s
   FOR NO KEY UPDATE

-- name: stop
-- A user's stop: status, exit, history; and, when an execution may be there, the order for it.
WITH moved AS (
    UPDATE run
       SET status = %(target)s,
           exit_code = %(exit_code)s,
           exit_message = %(exit_message)s,
           holdup = NULL,
           updated_at = date_trunc('milliseconds', clock_timestamp())
     WHERE run_id = %(run_id)s
 RETURNING run_id, generation, status, updated_at, exit_code, exit_message
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause,
                           exit_code, exit_message)
    SELECT run_id, generation, updated_at, %(before)s, status, %(cause)s, exit_code, exit_message
      FROM moved
), ordered AS (
    INSERT INTO outbox (kind, subject, payload, created_at)
    SELECT 'stop_run', run_id,
           jsonb_build_object('generation', generation, 'fail', %(fail)s::boolean), updated_at
      FROM moved
     WHERE %(has_execution)s
)
SELECT pg_notify(%(run_channel)s, run_id::text)::text || pg_notify(%(outbox_channel)s, '')::text
       AS told
  FROM moved

-- name: inputs
-- A user's Plan's inputs, in order of their positions.
SELECT i.path
  FROM plan p
  JOIN plan_input i USING (plan_id)
 WHERE p.plan_id = %(plan_id)s
 ORDER BY i.position

-- name: present
-- Which of these Data exist.
SELECT knit_id FROM data WHERE knit_id = ANY (%(knit_ids)s::uuid[])

-- name: assigned_run
-- The Run of an assignment.
SELECT run_id, generation
  FROM run
 WHERE plan_id = %(plan_id)s
   AND assignment_hash = %(hash)s
