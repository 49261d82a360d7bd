-- name: known

-- Final Data whose content is kept, those first that were never tried or not for longest.
SELECT d.knit_id::text, d.volume, d.owned, r.status = 'done' AS must_be_there,
       d.run_id::text, p.name IS NULL AS was_made, c.sha256, c.recorded_at
  FROM data d
  JOIN run r USING (run_id)
  JOIN plan p USING (plan_id)
  LEFT JOIN content_hash c USING (knit_id)
 WHERE r.status IN ('done', 'failed')
   AND d.purged_at IS NULL
   AND (%(knit_ids)s::uuid[] IS NULL OR d.knit_id = ANY (%(knit_ids)s::uuid[]))
   AND (c.checked_at IS NULL OR c.checked_at <= clock_timestamp() - %(older_than)s)
 ORDER BY c.tried_at NULLS FIRST, d.timestamp, d.knit_id

-- name: try

-- Data that were deleted meanwhile are left out: their rows are locked until this is committed.
INSERT INTO content_hash (knit_id, tried_at)
SELECT d.knit_id, now.at
  FROM data d,
       (SELECT date_trunc('milliseconds', clock_timestamp()) AS at) now
 WHERE d.knit_id = ANY (%(knit_ids)s::uuid[])
 ORDER BY d.knit_id
   FOR KEY SHARE OF d
    ON CONFLICT (knit_id) DO UPDATE SET tried_at = excluded.tried_at

-- name: record

-- What is recorded is replaced only by whoever accepts what is there now.
UPDATE content_hash c
   SET sha256 = seen.sha256,
       size = seen.size,
       checked_at = c.tried_at,
       recorded_at = CASE WHEN c.sha256 = seen.sha256 THEN c.recorded_at ELSE c.tried_at END,
       recorded_by = CASE WHEN c.sha256 = seen.sha256 THEN c.recorded_by ELSE %(by)s END
  FROM unnest(%(knit_ids)s::uuid[], %(sha256)s::text[], %(sizes)s::bigint[])
       AS seen (knit_id, sha256, size)
 WHERE c.knit_id = seen.knit_id
   AND seen.sha256 IS NOT NULL
   AND (c.sha256 IS NULL OR c.sha256 = seen.sha256 OR %(replaces)s)
