-- name: find

-- The ids of those tags that were ever used.
SELECT tag_id, digest
  FROM tag
 WHERE digest = ANY (%(digests)s::bytea[])

-- name: carriers

-- Which of these Data have one of these tags.
SELECT DISTINCT dt.knit_id
  FROM data_tag dt
  JOIN tag USING (tag_id)
 WHERE dt.knit_id = ANY (%(knit_ids)s::uuid[])
   AND tag.digest = ANY (%(digests)s::bytea[])

-- name: intern

-- Stores tags, in the order of the unique key so that two writers cannot wait for each other.
INSERT INTO tag (digest, key, value)
SELECT digest, key, value
  FROM unnest(%(digests)s::bytea[], %(keys)s::text[], %(values)s::text[])
       AS t (digest, key, value)
 ORDER BY digest
    ON CONFLICT (digest) DO NOTHING
