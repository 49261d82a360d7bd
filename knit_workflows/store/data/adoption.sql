-- name: serialize

-- One adoption after the other: two of the same volume would otherwise both find it unknown.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: known

-- Which of these volumes are Data already.
SELECT knit_id, volume
  FROM data
 WHERE NOT owned
   AND purged_at IS NULL
   AND volume = ANY (%(volumes)s::text[])

-- name: known_locked

-- The same, locked against deletion and against changes of their tags.
SELECT knit_id, volume
  FROM data
 WHERE NOT owned
   AND purged_at IS NULL
   AND volume = ANY (%(volumes)s::text[])
 ORDER BY knit_id
   FOR NO KEY UPDATE

-- name: adopt

-- Runs that are done from the beginning, their Data with tags, history, and one event per Data.
WITH wanted AS MATERIALIZED (
    SELECT run_id, knit_id, volume
      FROM unnest(%(run_ids)s::uuid[], %(knit_ids)s::uuid[], %(volumes)s::text[])
           AS w (run_id, knit_id, volume)
), made AS (
    INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
    SELECT w.run_id, p.plan_id, 'done', at, at
      FROM wanted w, plan p, date_trunc('milliseconds', clock_timestamp()) AS at
     WHERE p.name = %(plan)s
 RETURNING run_id, plan_id, generation, status, created_at
), filled AS (
    INSERT INTO data (knit_id, run_id, output_id, volume, timestamp, owned)
    SELECT w.knit_id, made.run_id, o.output_id, w.volume, made.created_at, false
      FROM made
      JOIN wanted w USING (run_id)
      JOIN plan_output o USING (plan_id)
 RETURNING knit_id, timestamp
), labelled AS (
    INSERT INTO data_tag (tag_id, knit_id, timestamp)
    SELECT t.tag_id, filled.knit_id, filled.timestamp
      FROM unnest(%(tagged)s::uuid[], %(tag_ids)s::bigint[]) AS t (knit_id, tag_id)
      JOIN filled USING (knit_id)
), noted AS (
    INSERT INTO run_event (run_id, generation, at, to_status, cause, actor)
    SELECT run_id, generation, created_at, status, 'volume adopted', %(actor)s
      FROM made
), queued AS (
    INSERT INTO outbox (kind, subject, created_at)
    SELECT 'data_ready', knit_id, timestamp
      FROM filled
     ORDER BY knit_id
)
SELECT pg_notify(%(outbox_channel)s, '')

-- name: tag

-- Adds the tags that these Data lack, and has those Data matched again.
WITH added AS (
    INSERT INTO data_tag (tag_id, knit_id, timestamp)
    SELECT t.tag_id, d.knit_id, d.timestamp
      FROM unnest(%(tagged)s::uuid[], %(tag_ids)s::bigint[]) AS t (knit_id, tag_id)
      JOIN data d USING (knit_id)
        ON CONFLICT DO NOTHING
 RETURNING knit_id
), queued AS (
    INSERT INTO outbox (kind, subject, created_at)
    SELECT DISTINCT 'tags_changed', knit_id, date_trunc('milliseconds', clock_timestamp())
      FROM added
)
SELECT pg_notify(%(outbox_channel)s, '')
