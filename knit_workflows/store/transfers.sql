-- name: begin_upload

-- The Run of an upload, its Data and its transfer: all of them, or none if the Run exists, or if the
-- volume of a deleted Data of that id is still to be deleted. The oldest volume that waits for an
-- upload becomes the Data's.
WITH made AS (
    INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
    SELECT %(run_id)s, plan_id, 'running', at, at
      FROM plan, date_trunc('milliseconds', clock_timestamp()) AS at
     WHERE name = %(plan)s
       AND NOT EXISTS (SELECT FROM discarded WHERE knit_id = %(knit_id)s)
        ON CONFLICT (run_id) DO NOTHING
 RETURNING run_id, plan_id, generation, status, created_at
), warm AS (
    DELETE FROM warm_volume
     WHERE volume = (SELECT volume
                       FROM warm_volume
                      WHERE state = 'ready'
                        AND EXISTS (SELECT FROM made)
                   ORDER BY created_at
                      LIMIT 1
                        FOR UPDATE SKIP LOCKED)
 RETURNING volume, token
), filled AS (
    INSERT INTO data (knit_id, run_id, output_id, volume)
    SELECT %(knit_id)s, made.run_id, o.output_id,
           COALESCE((SELECT volume FROM warm), %(volume)s)
      FROM made
      JOIN plan_output o USING (plan_id)
 RETURNING knit_id
), noted AS (
    INSERT INTO run_event (run_id, generation, at, to_status, cause, actor)
    SELECT run_id, generation, created_at, status, 'upload begins', %(actor)s
      FROM made
)
INSERT INTO transfer (transfer_id, knit_id, mode, token, created_at)
SELECT %(transfer_id)s, filled.knit_id, 'write',
       COALESCE((SELECT token FROM warm), %(token)s), made.created_at
  FROM made, filled

-- name: lock_readable

-- A Data with content. Those who share or leave its endpoints wait for each other; so they do for a purge
-- that is under way, and then see it; a purge that comes later sees their transfers.
SELECT knit_id FROM data WHERE knit_id = %(knit_id)s AND purged_at IS NULL FOR NO KEY UPDATE

-- name: readers

-- The transfers that read a Data by endpoints that can be shared, by endpoint, the oldest first.
SELECT transfer_id, token, state, created_at AS since, clock_timestamp() AS now
  FROM transfer
 WHERE knit_id = %(knit_id)s
   AND mode = 'read'
   AND strpos(token, '.') > 0
 ORDER BY min(created_at) OVER (PARTITION BY token), token, created_at

-- name: begin_download

-- A transfer that reads a Data, which is locked; the same one if it exists.
INSERT INTO transfer (transfer_id, knit_id, mode, token, created_at)
VALUES (%(transfer_id)s, %(knit_id)s, 'read', %(token)s,
        date_trunc('milliseconds', clock_timestamp()))
    ON CONFLICT (transfer_id) DO NOTHING

-- name: lock_data

-- A Data, whether it has content or not.
SELECT knit_id FROM data WHERE knit_id = %(knit_id)s FOR NO KEY UPDATE

-- name: present

-- The client of a transfer that reads is there.
UPDATE transfer
   SET created_at = date_trunc('milliseconds', clock_timestamp())
 WHERE transfer_id = %(transfer_id)s
   AND mode = 'read'
   AND state = 'open'

-- name: keep

-- An endpoint was used just now: the row of the transfer that keeps it.
UPDATE transfer
   SET state = 'idle', created_at = date_trunc('milliseconds', clock_timestamp())
 WHERE transfer_id = %(transfer_id)s

-- name: closing

-- Nobody may use the endpoint of a transfer any more.
UPDATE transfer SET state = 'closing' WHERE transfer_id = %(transfer_id)s

-- name: transfer

-- One transfer with its Data.
SELECT t.transfer_id, t.knit_id, d.run_id, d.volume, t.mode, t.token, t.endpoint
  FROM transfer t
  JOIN data d USING (knit_id)
 WHERE t.transfer_id = %(transfer_id)s

-- name: purged

-- When a Data was purged.
SELECT purged_at FROM data WHERE knit_id = %(knit_id)s AND purged_at IS NOT NULL

-- name: opened

-- The endpoint of a transfer; from now on the client of one that reads is to be there.
UPDATE transfer
   SET endpoint = %(endpoint)s,
       state = 'open',
       created_at = CASE mode WHEN 'read' THEN date_trunc('milliseconds', clock_timestamp())
                              ELSE created_at END
 WHERE transfer_id = %(transfer_id)s
   AND state IN ('opening', 'open')

-- name: closed

-- The transfer is over.
DELETE FROM transfer WHERE transfer_id = %(transfer_id)s

-- name: announce
-- A user begins to wait. Nothing is stored, so this commit need not reach the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify(%(channel)s, '')
