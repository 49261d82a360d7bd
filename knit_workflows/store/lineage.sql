-- name: exists

-- Whether there is such a Data.
SELECT knit_id FROM data WHERE knit_id = %(knit_id)s

-- name: walk

-- The Runs that a Data came from (`up`) and that came of it, nearest first, at most so many hops
-- away; deleted ones are not followed downstream. A row holds a Run and nothing else, so UNION
-- meets each Run once, whatever the number of ways to it, and no cycle can go on for ever; a hop
-- beside it would make every way a row of its own. The hop is known all the same: one row per
-- direction has no Run, and counts. It is what the window gives to the Runs of its own turn, and a
-- turn that found no Run is the last one.
WITH RECURSIVE walk (up, run_id, hop) AS (
    (
        SELECT true, d.run_id, NULL::int
          FROM data d
         WHERE d.knit_id = %(knit_id)s
           AND %(upstream)s::int > 0
         UNION ALL
        SELECT false, ri.run_id, NULL
          FROM run_input ri
          JOIN run r USING (run_id)
         WHERE ri.knit_id = %(knit_id)s
           AND r.status <> 'invalidated'
           AND %(downstream)s::int > 0
         UNION ALL
        VALUES (true, NULL::uuid, 1), (false, NULL, 1)
    )
     UNION
    SELECT turn.up, next.run_id, next.hop
      FROM (SELECT up, run_id, max(hop) OVER direction AS hop, count(run_id) OVER direction AS runs
              FROM walk
            WINDOW direction AS (PARTITION BY up)) AS turn
     CROSS JOIN LATERAL (
        SELECT d.run_id, NULL::int
          FROM run_input ri
          JOIN data d USING (knit_id)
         WHERE turn.up
           AND ri.run_id = turn.run_id
         UNION ALL
        SELECT r.run_id, NULL
          FROM data d
          JOIN run_input ri USING (knit_id)
          JOIN run r ON r.run_id = ri.run_id
         WHERE NOT turn.up
           AND d.run_id = turn.run_id
           AND r.status <> 'invalidated'
         UNION ALL
        SELECT NULL, turn.hop + 1
         WHERE turn.run_id IS NULL
     ) AS next (run_id, hop)
     WHERE turn.runs > 0
       AND turn.hop < CASE WHEN turn.up THEN %(upstream)s::int ELSE %(downstream)s::int END
)
SELECT array_agg(run_id)::text[] AS run_ids
  FROM (SELECT run_id FROM walk WHERE run_id IS NOT NULL LIMIT %(most)s) AS found

-- name: edges

-- What these Runs have at their inputs and outputs (the log's path is none), in the order of the
-- ids, inputs first; a column is an array, since ten thousand rows would take longer to read.
-- OFFSET 0 keeps the lookups apart: for ten thousand Runs the planner would read all Data instead.
WITH wanted AS (
    SELECT * FROM unnest(%(run_ids)s::uuid[]) WITH ORDINALITY AS w (run_id, place)
), edge AS (
    SELECT w.place, w.run_id, true AS into_run, i.position, i.path, used.knit_id
      FROM wanted w
     CROSS JOIN LATERAL (
        SELECT input_id, knit_id FROM run_input WHERE run_input.run_id = w.run_id OFFSET 0
     ) AS used
      JOIN plan_input i USING (input_id)
     UNION ALL
    SELECT w.place, w.run_id, false, o.position, CASE WHEN NOT o.is_log THEN o.path END,
           made.knit_id
      FROM wanted w
     CROSS JOIN LATERAL (
        SELECT output_id, knit_id FROM data WHERE data.run_id = w.run_id OFFSET 0
     ) AS made
      JOIN plan_output o USING (output_id)
)
SELECT array_agg(run_id)::text[] AS run_ids,
       array_agg(knit_id)::text[] AS knit_ids,
       array_agg(path) AS paths,
       array_agg(into_run) AS into_run
  FROM (SELECT * FROM edge ORDER BY place, into_run DESC, position) AS ordered
