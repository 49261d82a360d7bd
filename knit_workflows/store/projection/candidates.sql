-- name: fills

-- The inputs that a Data fills now, and how many inputs each Plan has: those all of whose tags it
-- has (relational division through the interned tags), and those that only pin its id or time. No
-- rows if its Run is not done, or if it was purged. Which Data that is, whoever asks says.
WITH one AS MATERIALIZED (
    SELECT d.knit_id, d.timestamp
      FROM data d
      JOIN run r USING (run_id)
     WHERE d.knit_id = /*knit_id*/
       AND d.purged_at IS NULL
       AND r.status = 'done'
), tagged AS (
    SELECT t.input_id, count(*) AS hits
      FROM data_tag dt
      JOIN plan_input_tag t USING (tag_id)
     WHERE dt.knit_id = /*knit_id*/
     GROUP BY t.input_id
), filled AS (
    SELECT i.plan_id, i.position
      FROM one
     CROSS JOIN tagged
      JOIN plan_input i ON i.input_id = tagged.input_id AND i.tag_count = tagged.hits
     WHERE (i.pinned_knit_id IS NULL OR i.pinned_knit_id = one.knit_id::text)
       AND (i.pinned_timestamp IS NULL OR i.pinned_timestamp = one.timestamp)
     UNION ALL
    SELECT i.plan_id, i.position
      FROM one
      JOIN plan_input i ON i.pinned_knit_id = one.knit_id::text
     WHERE i.tag_count = 0
       AND (i.pinned_timestamp IS NULL OR i.pinned_timestamp = one.timestamp)
     UNION ALL
    SELECT i.plan_id, i.position
      FROM one
      JOIN plan_input i ON i.pinned_timestamp = one.timestamp
     WHERE i.tag_count = 0
       AND i.pinned_knit_id IS NULL
)
SELECT f.plan_id, f.position,
       (SELECT count(*) FROM plan_input i WHERE i.plan_id = f.plan_id) AS inputs
  FROM filled f
 ORDER BY f.plan_id, f.position

-- name: possible

-- Part of the statements below: the Data that fill each input of a Plan now (no purged ones). At
-- the input `pivot` only the Data `trigger` is looked at; of the others only the first `most` and
-- `most` from those in `last` on, of the input `slow` only the latter. A pinned input starts from
-- its pin, and is not cut; the others start from the one of their tags that the fewest Data have
-- (counted up to a bound) and probe the rest: (tag_id, knit_id) is an index, so that a window is a
-- range of it. Pairs are compared, and what is asked of each Data is a subquery, so that the planner
-- walks that index as far as the window goes: with joins it may gather all Data and sort them.
wanted AS MATERIALIZED (
    SELECT i.input_id, i.position, i.tag_count, i.pinned_knit_id, i.pinned_timestamp,
           i.pinned_knit_id IS NOT NULL OR i.pinned_timestamp IS NOT NULL AS is_pinned,
           CASE i.position WHEN %(pivot)s THEN %(trigger)s::uuid ELSE uuid_first END AS low,
           CASE i.position WHEN %(pivot)s THEN %(trigger)s::uuid ELSE uuid_last END AS high,
           CASE WHEN i.position = %(pivot)s THEN ARRAY[%(trigger)s::uuid]
                WHEN %(last)s::uuid[] IS NULL THEN ARRAY[uuid_first]
                WHEN i.position = %(slow)s THEN (%(last)s::uuid[])[i.position + 1 : i.position + 1]
                ELSE ARRAY[uuid_first, (%(last)s::uuid[])[i.position + 1]] END AS lows,
           (SELECT t.tag_id
              FROM plan_input_tag t
             WHERE t.input_id = i.input_id
             ORDER BY CASE WHEN i.tag_count > 1 AND i.position IS DISTINCT FROM %(pivot)s THEN
                          (SELECT count(*)
                             FROM (SELECT FROM data_tag x
                                    WHERE x.tag_id = t.tag_id LIMIT 10000) few)
                      END, t.tag_id
             LIMIT 1) AS rarest
      FROM plan_input i,
           CAST('00000000-0000-0000-0000-000000000000' AS uuid) AS uuid_first,
           CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid) AS uuid_last
     WHERE i.plan_id = %(plan_id)s
), possible AS MATERIALIZED (
    SELECT w.position, c.knit_id
      FROM wanted w
     CROSS JOIN LATERAL unnest(w.lows) AS start (low)
     CROSS JOIN LATERAL (
        SELECT dt.knit_id
          FROM data_tag dt
         WHERE (dt.tag_id, dt.knit_id) >= (w.rarest, start.low)
           AND (dt.tag_id, dt.knit_id) <= (w.rarest, w.high)
           AND (SELECT r.status
                  FROM run r
                 WHERE r.run_id = (SELECT d.run_id
                                     FROM data d
                                    WHERE d.knit_id = dt.knit_id
                                      AND d.purged_at IS NULL)) = 'done'
           AND (w.tag_count = 1
                OR w.tag_count = (SELECT count(*)
                                    FROM plan_input_tag t
                                    JOIN data_tag x
                                      ON x.tag_id = t.tag_id AND x.knit_id = dt.knit_id
                                   WHERE t.input_id = w.input_id))
         ORDER BY dt.tag_id, dt.knit_id
         LIMIT %(most)s
     ) c
     WHERE NOT w.is_pinned
     UNION ALL
    SELECT w.position, p.knit_id
      FROM wanted w
     CROSS JOIN LATERAL (
        SELECT d.knit_id, d.run_id, d.purged_at
          FROM data d
         WHERE d.timestamp = w.pinned_timestamp
           AND w.pinned_knit_id IS NULL
         UNION ALL
        SELECT d.knit_id, d.run_id, d.purged_at
          FROM data d
         WHERE d.knit_id =
               CASE WHEN w.pinned_knit_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                    THEN w.pinned_knit_id::uuid END
           AND (w.pinned_timestamp IS NULL OR w.pinned_timestamp = d.timestamp)
     ) p
      JOIN run r ON r.run_id = p.run_id AND r.status = 'done'
     -- Not `tag_count = (SELECT …)`: PostgreSQL 18 loses that condition in some plans, and all
     -- that is pinned would fill the input.
     CROSS JOIN LATERAL (
        SELECT count(*) AS hits
          FROM plan_input_tag t
          JOIN data_tag x ON x.tag_id = t.tag_id AND x.knit_id = p.knit_id
         WHERE t.input_id = w.input_id
     ) had
     WHERE w.is_pinned
       AND p.purged_at IS NULL
       AND p.knit_id BETWEEN w.low AND w.high
       AND w.tag_count = had.hits
)

-- name: candidates

-- For every input of a Plan, these Data in order of their ids; one snapshot for all inputs.
WITH /*possible*/, filled AS (
    SELECT position, array_agg(DISTINCT knit_id ORDER BY knit_id)::text[] AS knit_ids
      FROM possible
     GROUP BY position
)
SELECT COALESCE(filled.knit_ids, '{}') AS knit_ids
  FROM wanted
  LEFT JOIN filled USING (position)
 ORDER BY wanted.position

-- name: count

-- For every input of a Plan, how many Data fill it, and the `shown` first of them.
WITH /*possible*/
SELECT (SELECT count(*) FROM possible p WHERE p.position = wanted.position) AS found,
       ARRAY(SELECT p.knit_id
               FROM possible p
              WHERE p.position = wanted.position
              ORDER BY p.knit_id
              LIMIT %(shown)s)::text[] AS first
  FROM wanted
 ORDER BY wanted.position
