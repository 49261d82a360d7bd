-- name: take

-- Removes the oldest projectable event that no other process holds from the outbox, and looks which
-- inputs its Data fills: the snapshot that shows the event shows all that was committed before it. If
-- the transaction fails, the event is still there.
WITH oldest AS MATERIALIZED (
    SELECT event_id, subject
      FROM outbox
     WHERE kind <> 'stop_run'
     ORDER BY event_id
       FOR UPDATE SKIP LOCKED
     LIMIT 1
), taken AS (
    DELETE FROM outbox
     USING oldest
     WHERE outbox.event_id = oldest.event_id
 RETURNING outbox.event_id, outbox.kind, outbox.subject, outbox.cursor, outbox.created_at
)
SELECT taken.*,
       EXISTS (SELECT
                 FROM outbox o
                WHERE o.kind <> 'stop_run'
                  AND o.event_id > taken.event_id) AS has_next,
       (SELECT jsonb_agg(jsonb_build_array(plan_id, position, inputs) ORDER BY plan_id, position)
          FROM (/*filled_inputs*/) AS found) AS filled
  FROM taken

-- name: put_back

-- Puts an event back, to be continued from a cursor: behind all others, whose turn it is first.
INSERT INTO outbox (kind, subject, cursor, created_at)
VALUES (%(kind)s, %(subject)s, %(cursor)s, %(created_at)s)
