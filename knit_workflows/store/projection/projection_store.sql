-- name: take

-- Takes the oldest event that means Runs and that no other process holds out of the outbox. It is
-- back there when the transaction fails.
WITH oldest AS MATERIALIZED (
    SELECT event_id
      FROM outbox
     WHERE kind <> 'stop_run'
     ORDER BY event_id
       FOR UPDATE SKIP LOCKED
     LIMIT 1
)
DELETE FROM outbox
 USING oldest
 WHERE outbox.event_id = oldest.event_id
RETURNING outbox.event_id, kind, subject, cursor, created_at

-- name: put_back

-- Puts an event back in its place, to go on from a cursor.
INSERT INTO outbox (event_id, kind, subject, cursor, created_at) OVERRIDING SYSTEM VALUE
VALUES (%(event_id)s, %(kind)s, %(subject)s, %(cursor)s, %(created_at)s)
