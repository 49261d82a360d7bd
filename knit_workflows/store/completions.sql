-- name: plan_words

-- Part of other statements: how a Plan is shown to people, its image as it was written.
coalesce('image = ' || p.repository || coalesce(':' || nullif(p.image_tag, ''), '')
                    || coalesce('@' || nullif(p.image_digest, ''), ''), p.name)

-- name: data

-- The Data whose ids are in a range of the key, with their tags. `words` is cut: it is for a line.
SELECT d.knit_id::text AS value, left(coalesce(tags.words, ''), 200) AS words
  FROM (SELECT knit_id
          FROM data
         WHERE knit_id BETWEEN %(first)s::uuid AND %(last)s::uuid
         ORDER BY knit_id
         LIMIT %(limit)s) AS d
  LEFT JOIN LATERAL (
    SELECT string_agg(left(t.key || ':' || t.value, 200), ' ' ORDER BY t.key, t.value) AS words
      FROM data_tag dt
      JOIN tag t USING (tag_id)
     WHERE dt.knit_id = d.knit_id
  ) AS tags ON true
 ORDER BY d.knit_id

-- name: recent_data

-- The newest Data, read backward from the end of their index.
SELECT d.knit_id::text AS value, left(coalesce(tags.words, ''), 200) AS words
  FROM (SELECT knit_id, timestamp
          FROM data
         WHERE timestamp IS NOT NULL
         ORDER BY timestamp DESC, knit_id DESC
         LIMIT %(limit)s) AS d
  LEFT JOIN LATERAL (
    SELECT string_agg(left(t.key || ':' || t.value, 200), ' ' ORDER BY t.key, t.value) AS words
      FROM data_tag dt
      JOIN tag t USING (tag_id)
     WHERE dt.knit_id = d.knit_id
  ) AS tags ON true
 ORDER BY d.timestamp DESC, d.knit_id DESC

-- name: runs

-- The Runs whose ids are in a range of the key.
SELECT r.run_id::text AS value, r.status || ' ' || /*plan_words*/ AS words
  FROM run r
  JOIN plan p USING (plan_id)
 WHERE r.run_id BETWEEN %(first)s::uuid AND %(last)s::uuid
   AND r.status <> 'invalidated'
 ORDER BY r.run_id
 LIMIT %(limit)s

-- name: recent_runs

-- The Runs that changed last: the end of each range of their index, merged.
SELECT found.run_id::text AS value, found.status || ' ' || /*plan_words*/ AS words
  FROM (SELECT latest.*
          FROM unnest(%(statuses)s::text[]) AS of_status (status)
         CROSS JOIN LATERAL (
            SELECT r.run_id, r.plan_id, r.status, r.updated_at
              FROM run r
             WHERE r.status = of_status.status
             ORDER BY r.updated_at DESC, r.run_id DESC
             LIMIT %(limit)s
         ) AS latest
         ORDER BY latest.updated_at DESC, latest.run_id DESC
         LIMIT %(limit)s) AS found
  JOIN plan p USING (plan_id)
 ORDER BY found.updated_at DESC, found.run_id DESC

-- name: plans

-- Plans are few, compared with Runs; the newest first.
SELECT p.plan_id::text AS value, /*plan_words*/ AS words
  FROM plan p
 WHERE p.plan_id BETWEEN %(first)s::uuid AND %(last)s::uuid
 ORDER BY p.created_at DESC, p.plan_id
 LIMIT %(limit)s

-- name: tags

-- Tags by prefix, among the newest: they have no index by their text, and are never removed.
SELECT DISTINCT newest.key || ':' || newest.value AS value, '' AS words
  FROM (SELECT key, value FROM tag ORDER BY tag_id DESC LIMIT %(looked_at)s) AS newest
 WHERE starts_with(newest.key || ':' || newest.value, %(prefix)s)
   AND length(newest.key) + length(newest.value) < 1000
 ORDER BY value
 LIMIT %(limit)s

-- name: keys

-- The keys of the same tags.
SELECT DISTINCT newest.key AS value, '' AS words
  FROM (SELECT key FROM tag ORDER BY tag_id DESC LIMIT %(looked_at)s) AS newest
 WHERE starts_with(newest.key, %(prefix)s)
 ORDER BY value
 LIMIT %(limit)s
