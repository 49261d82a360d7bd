-- name: known

-- Final Data whose content is kept, those first that were never compared or not for longest.
SELECT d.knit_id::text, d.volume, d.owned, r.status = 'done' AS must_be_there,
       d.run_id::text, c.sha256, c.recorded_at
  FROM data d
  JOIN run r USING (run_id)
  LEFT JOIN content_hash c USING (knit_id)
 WHERE r.status IN ('done', 'failed')
   AND d.purged_at IS NULL
   AND (%(knit_ids)s::uuid[] IS NULL OR d.knit_id = ANY (%(knit_ids)s::uuid[]))
   AND (c.checked_at IS NULL OR c.checked_at <= clock_timestamp() - %(older_than)s)
 ORDER BY c.checked_at NULLS FIRST, d.timestamp, d.knit_id

-- name: record

-- Data that were deleted meanwhile are left out: their rows are locked until this is committed.
-- What is recorded is replaced only by whoever accepts what is there now.
INSERT INTO content_hash AS c (knit_id, sha256, size, recorded_at, recorded_by, checked_at)
SELECT d.knit_id, seen.sha256, seen.size, now.at, %(by)s, now.at
  FROM unnest(%(knit_ids)s::uuid[], %(sha256)s::text[], %(sizes)s::bigint[])
       AS seen (knit_id, sha256, size)
  JOIN data d USING (knit_id),
       (SELECT date_trunc('milliseconds', clock_timestamp()) AS at) now
 ORDER BY d.knit_id
   FOR KEY SHARE OF d
    ON CONFLICT (knit_id) DO UPDATE
   SET sha256 = excluded.sha256,
       size = excluded.size,
       checked_at = excluded.checked_at,
       recorded_at = CASE WHEN c.sha256 = excluded.sha256 THEN c.recorded_at
                          ELSE excluded.recorded_at END,
       recorded_by = CASE WHEN c.sha256 = excluded.sha256 THEN c.recorded_by
                          ELSE excluded.recorded_by END
 WHERE c.sha256 = excluded.sha256 OR %(replaces)s
