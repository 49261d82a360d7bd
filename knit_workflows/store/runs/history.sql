-- name: run_events

-- Every change of a Run's status, oldest first. No row: there is no such Run.
SELECT e.at, e.generation, e.from_status, e.to_status, e.cause, e.exit_code, e.exit_message,
       e.actor, e.timeline, e.used
  FROM run r
  LEFT JOIN run_event e USING (run_id)
 WHERE r.run_id = %(run_id)s
 ORDER BY e.event_id
