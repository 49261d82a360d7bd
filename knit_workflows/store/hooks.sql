-- name: hooks

-- The hooks in force.
SELECT before_urls, after_urls FROM hooks

-- name: configure

-- Puts hooks in force, and tells whether they are others than before; no row: neither they nor
-- their file are. Of workers with the same file, the one that was first stays the source.
WITH cur AS MATERIALIZED (
    SELECT singleton,
           (before_urls, after_urls) IS DISTINCT FROM (%(before)s::text[], %(after)s::text[])
               AS is_other
      FROM hooks
       FOR UPDATE
)
UPDATE hooks
   SET before_urls = %(before)s::text[],
       after_urls = %(after)s::text[],
       worker = %(worker)s::text,
       file = %(file)s::text,
       digest = %(digest)s::text,
       changed_at = CASE WHEN is_other THEN date_trunc('milliseconds', clock_timestamp())
                         ELSE changed_at END
  FROM cur
 WHERE hooks.singleton = cur.singleton
   AND (is_other OR digest IS DISTINCT FROM %(digest)s::text)
RETURNING is_other

-- name: follow

-- Records that a worker follows a hooks file; those that have not said so for an hour are forgotten.
WITH forgotten AS (
    DELETE FROM hook_follower
     WHERE seen_at < clock_timestamp() - interval '1 hour'
       AND worker <> %(worker)s
)
INSERT INTO hook_follower AS known (worker, file, digest, problem, since, seen_at)
SELECT %(worker)s, %(file)s, %(digest)s, %(problem)s, now_ms, now_ms
  FROM date_trunc('milliseconds', clock_timestamp()) AS now_ms
    ON CONFLICT (worker) DO UPDATE
   SET file = excluded.file,
       digest = excluded.digest,
       problem = excluded.problem,
       seen_at = excluded.seen_at,
       since = CASE WHEN (known.file, known.digest, known.problem)
                         IS DISTINCT FROM (excluded.file, excluded.digest, excluded.problem)
                    THEN excluded.since ELSE known.since END

-- name: leave

-- A worker that follows no hooks file any more.
DELETE FROM hook_follower WHERE worker = %(worker)s

-- name: in_force

-- The hooks in force, and whence they come.
SELECT before_urls, after_urls, changed_at, worker, file, digest FROM hooks

-- name: followers

-- Workers that were seen to follow a hooks file lately, by name. The clock may have been set back.
SELECT worker, file, digest, problem, since, seen_at
  FROM hook_follower
 WHERE seen_at BETWEEN clock_timestamp() - %(lately)s AND clock_timestamp() + %(lately)s
 ORDER BY worker

-- name: begin

-- Records that a hook is about to be called. A Before hook may be called again, unless it was
-- skipped; an After hook is claimed by the first attempt. `attempts` NULL: it is not to be called.
WITH cur AS MATERIALIZED (
    SELECT run_id, generation FROM run WHERE run_id = %(run_id)s FOR KEY SHARE
), begun AS (
    INSERT INTO hook_delivery (delivery_id, run_id, generation, from_status, to_status, phase, url,
                               attempts, state, created_at, called_at)
    SELECT %(delivery_id)s::uuid, run_id, generation, %(source)s, %(target)s, %(phase)s, %(url)s,
           1, 'calling', now_ms, now_ms
      FROM cur, date_trunc('milliseconds', clock_timestamp()) AS now_ms
     WHERE generation = %(generation)s
        ON CONFLICT ON CONSTRAINT uq_hook_delivery DO UPDATE
       SET attempts = hook_delivery.attempts + 1,
           state = 'calling',
           called_at = excluded.called_at,
           next_at = NULL
     WHERE hook_delivery.phase = 'before'
       AND hook_delivery.state <> 'skipped'
 RETURNING run_id, attempts
)
SELECT cur.generation, begun.attempts
  FROM cur
  LEFT JOIN begun USING (run_id)

-- name: ended

-- How an attempt has ended. A later one knows better.
UPDATE hook_delivery
   SET state = %(state)s,
       status_code = %(status_code)s::smallint,
       answer = %(answer)s,
       duration_ms = %(duration_ms)s,
       next_at = date_trunc('milliseconds', clock_timestamp())
                 + %(next_in)s::double precision * interval '1 second'
 WHERE delivery_id = %(delivery_id)s
   AND attempts = %(attempt)s
   AND state <> 'skipped'

-- name: keep_environment

-- For the container that is launched next.
UPDATE run
   SET hook_env = NULLIF(%(environment)s::jsonb, '{}'::jsonb)
 WHERE run_id = %(run_id)s
   AND generation = %(generation)s
   AND status = %(source)s

-- name: deliveries

-- Deliveries, those that were called last first.
SELECT delivery_id, run_id, generation, from_status, to_status, phase, url, attempts, state,
       status_code, answer, duration_ms, created_at, called_at, next_at, skipped_by, skip_reason
  FROM hook_delivery
 WHERE /*where*/
 ORDER BY called_at DESC, delivery_id DESC
 LIMIT %(limit)s

-- name: lock_delivery

-- A delivery, locked with its Run, and whether its transition is still to be made.
SELECT d.delivery_id, d.phase, d.url, d.state, d.skipped_by, d.from_status, d.to_status,
       r.generation = d.generation AND r.status = d.from_status AS is_open
  FROM hook_delivery d
  JOIN run r USING (run_id)
 WHERE d.delivery_id = %(delivery_id)s
   FOR NO KEY UPDATE

-- name: skip

-- A user lets the transition go on without this hook.
WITH skipped AS (
    UPDATE hook_delivery
       SET state = 'skipped', skipped_by = %(actor)s, skip_reason = %(reason)s, next_at = NULL
     WHERE delivery_id = %(delivery_id)s
 RETURNING run_id, generation, from_status
)
INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause, actor)
SELECT run_id, generation, date_trunc('milliseconds', clock_timestamp()),
       from_status, from_status, %(cause)s, %(actor)s
  FROM skipped

-- name: run

-- Whether there is such a Run.
SELECT run_id FROM run WHERE run_id = %(run_id)s
