-- name: find

-- The ids of those tags that were ever used.
SELECT tag_id, digest
  FROM tag
 WHERE digest = ANY (%(digests)s::bytea[])

-- name: intern

-- Stores tags, in the order of the unique key so that two writers cannot wait for each other.
INSERT INTO tag (digest, key, value)
SELECT digest, key, value
  FROM unnest(%(digests)s::bytea[], %(keys)s::text[], %(values)s::text[])
       AS t (digest, key, value)
 ORDER BY digest
    ON CONFLICT (digest) DO NOTHING
