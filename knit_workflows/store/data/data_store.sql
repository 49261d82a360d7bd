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
