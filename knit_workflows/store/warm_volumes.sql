-- name: one_at_a_time

-- Keepers count one after another, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('knit.warm_volume'))

-- name: superfluous

-- Those of another kind, and the newest of too many, are to go.
UPDATE warm_volume
   SET state = 'ending', until = date_trunc('milliseconds', clock_timestamp())
 WHERE state <> 'ending'
   AND (kind <> %(kind)s
        OR volume NOT IN (SELECT volume
                            FROM warm_volume
                           WHERE kind = %(kind)s AND state <> 'ending'
                        ORDER BY created_at
                           LIMIT %(count)s))

-- name: count

SELECT count(*) FROM warm_volume WHERE state <> 'ending'

-- name: add

INSERT INTO warm_volume (volume, knit_id, kind, token, state, keeper, until, created_at)
SELECT %(volume)s, %(knit_id)s, %(kind)s, %(token)s, 'making', %(keeper)s, at, at
  FROM date_trunc('milliseconds', clock_timestamp()) AS at

-- name: hold

-- What this keeper was making already, and what nobody has held or looked after for a while.
UPDATE warm_volume
   SET state = CASE state WHEN 'ending' THEN state ELSE 'making' END,
       keeper = %(keeper)s,
       until = date_trunc('milliseconds', clock_timestamp()) + %(held)s
 WHERE volume IN (SELECT volume
                    FROM warm_volume
                   WHERE (keeper = %(keeper)s AND state <> 'ready') OR until <= clock_timestamp()
                ORDER BY created_at
                     FOR UPDATE SKIP LOCKED)
RETURNING volume, knit_id, token, state = 'ending' AS ending

-- name: ready

UPDATE warm_volume
   SET state = 'ready', until = date_trunc('milliseconds', clock_timestamp()) + %(every)s
 WHERE volume = %(volume)s AND keeper = %(keeper)s AND state = 'making'
RETURNING volume

-- name: end

-- What this keeper still holds is to go: nobody gets it any more.
UPDATE warm_volume
   SET state = 'ending', until = date_trunc('milliseconds', clock_timestamp()) + %(held)s
 WHERE volume = %(volume)s AND keeper = %(keeper)s AND state <> 'ready'
RETURNING volume

-- name: discard

WITH gone AS (
    DELETE FROM warm_volume WHERE volume = %(volume)s AND keeper = %(keeper)s RETURNING knit_id, volume
)
INSERT INTO discarded (knit_id, volume, at)
SELECT knit_id::uuid, volume, date_trunc('milliseconds', clock_timestamp()) FROM gone
    ON CONFLICT DO NOTHING
