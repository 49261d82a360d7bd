-- name: take

-- Removes the oldest projectable event that no other process holds from the outbox. If the
-- transaction fails, the event is still there.
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
RETURNING outbox.event_id, kind, subject, cursor, created_at,
          EXISTS (SELECT
                    FROM outbox o
                   WHERE o.kind <> 'stop_run'
                     AND o.event_id > oldest.event_id) AS has_next

-- name: put_back

-- Puts an event back in its place, to be continued from a cursor.
INSERT INTO outbox (event_id, kind, subject, cursor, created_at) OVERRIDING SYSTEM VALUE
VALUES (%(event_id)s, %(kind)s, %(subject)s, %(cursor)s, %(created_at)s)
