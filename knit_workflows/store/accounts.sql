-- name: serialize

-- One token is made at a time: whether a name is free depends on the clock, which no index knows.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: valid_by_name

-- The valid token of that name.
SELECT token_id
  FROM token
 WHERE name = %(name)s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > clock_timestamp())

-- name: token_columns

-- Part of other statements. By name: one prepared with * fails once a later release adds a column.
token_id, name, role, projects, digest, prefix, created_at, created_by, expires_at, revoked_at,
revoked_by, last_used_at

-- name: create

-- A token; its text is nowhere in here.
INSERT INTO token (token_id, name, role, projects, digest, prefix, created_at, created_by, expires_at)
VALUES (%(token_id)s, %(name)s, %(role)s, %(projects)s, %(digest)s, %(prefix)s,
        date_trunc('milliseconds', clock_timestamp()), %(created_by)s, %(expires_at)s)
RETURNING /*token_columns*/

-- name: tokens

-- All tokens, the newest first.
SELECT /*token_columns*/ FROM token ORDER BY created_at DESC, token_id

-- name: token

-- The token of a digest.
SELECT /*token_columns*/ FROM token WHERE digest = %(digest)s

-- name: used

-- A token is used; noted once a minute at most.
UPDATE token
   SET last_used_at = date_trunc('milliseconds', clock_timestamp())
 WHERE token_id = %(token_id)s
   AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')

-- name: revoke

-- Whoever revoked it first has done so.
UPDATE token
   SET revoked_at = coalesce(revoked_at, date_trunc('milliseconds', clock_timestamp())),
       revoked_by = coalesce(revoked_by, %(actor)s)
 WHERE token_id = %(token_id)s
RETURNING /*token_columns*/

-- name: begin

-- A request that is about to be carried out, or is refused (it has a status then).
-- Its commit does not wait for the disk: that of the change itself comes later in the write-ahead
-- log, so there is no change on disk without its record (PostgreSQL's manual, "Asynchronous Commit").
INSERT INTO audit (at, subject, actor, method, route, targets, address, status)
SELECT date_trunc('milliseconds', clock_timestamp()), %(subject)s, %(actor)s, %(method)s,
       %(route)s, %(targets)s, %(address)s, %(status)s
  FROM set_config('synchronous_commit', 'off', true)
RETURNING entry_id

-- name: end

-- How a request has ended; it does not wait for the disk either.
INSERT INTO audit (outcome_of, at, status, targets)
SELECT %(entry_id)s, date_trunc('milliseconds', clock_timestamp()), %(status)s, %(targets)s
  FROM set_config('synchronous_commit', 'off', true)
    ON CONFLICT (outcome_of) DO NOTHING

-- name: entries

-- Requests with their outcomes, the latest first.
SELECT b.entry_id, b.at, b.subject, b.actor, b.method, b.route,
       b.targets || coalesce(e.targets, '{}') AS targets, b.address, b.status,
       coalesce(b.status, e.status) AS outcome,
       CASE WHEN b.status IS NULL THEN e.at ELSE b.at END AS ended_at
  FROM audit b
  LEFT JOIN audit e ON e.outcome_of = b.entry_id
 WHERE /*where*/
 ORDER BY b.entry_id DESC
 LIMIT %(limit)s
