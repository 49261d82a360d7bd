-- name: turns

-- Part of the statements below: `turns`, the first `most` waiting Runs in the order in which they
-- are admitted. A higher priority goes first; of one priority, the Run that would be its Plan's
-- earliest: its turn counts the Plan's Runs under way and those that go before it; then the older.
-- `in_force` has the limits, which leave out what they forbid now; NULL: no limit. A Run that is
-- pending uses nothing, so `total` does not count it; `ceiling` and `per_plan` do. One whose hook
-- holds it up has no pod yet, or none any more: but for a starting one, whose container may run.
--
-- Runs of inactive Plans have no turn: they may still be waiting, since they are deactivated page by
-- page.
--
-- The cost follows the Plans that have waiting Runs, and `most`, never how many Runs wait:
-- * `heads` leaps from Plan to Plan through `ix_run_queue_of_plan`. Nothing is looked at when no
--   place is free.
-- * Within a Plan the order is that of the index, so that no Run has its turn unless the first one
--   of its Plan has: `most` Plans will do.
-- * Of each of them the `front` is looked at. Only where all of it has its turn, others of the
--   Plan may have theirs: those are few, since `front` is the square root of `most`.
-- * `BETWEEN` one id and the same, and ids made arrays: with `=` and joins, the planner may take
--   the few for many and read the queues of all Plans, or the table.
under_way AS MATERIALIZED (
    SELECT plan_id, count(*) AS runs,
           count(*) FILTER (WHERE holdup->>'kind' <> 'progress'
                              AND NOT (holdup->>'kind' = 'hook' AND status = 'starting')) AS pending
      FROM run
     WHERE admitted_at IS NOT NULL
       AND status NOT IN ('done', 'failed', 'invalidated')
     GROUP BY plan_id
), bound AS MATERIALIZED (
    SELECT places, ceil(sqrt(places))::bigint AS front
      FROM (SELECT greatest(0, least(%(most)s::bigint,
                                     total - COALESCE(sum(runs - pending), 0),
                                     ceiling - COALESCE(sum(runs), 0)))::bigint AS places
              FROM in_force
              LEFT JOIN under_way ON true
             GROUP BY total, ceiling) AS free
), heads AS (
    (SELECT plan_id, priority, created_at, run_id
       FROM run
      WHERE status = 'waiting'
        AND admitted_at IS NULL
        AND (SELECT places FROM bound) > 0
      ORDER BY plan_id, priority DESC, created_at, run_id
      LIMIT 1)
     UNION ALL
    SELECT following.*
      FROM heads
     CROSS JOIN LATERAL (
        SELECT r.plan_id, r.priority, r.created_at, r.run_id
          FROM run r
         WHERE r.plan_id > heads.plan_id
           AND r.status = 'waiting'
           AND r.admitted_at IS NULL
         ORDER BY r.plan_id, r.priority DESC, r.created_at, r.run_id
         LIMIT 1
     ) following
), plans AS MATERIALIZED (
    SELECT heads.plan_id, COALESCE(u.runs, 0) AS runs, bound.front,
           least(bound.places, in_force.per_plan - COALESCE(u.runs, 0)) AS room
      FROM heads
      JOIN plan p ON p.plan_id = heads.plan_id AND p.active
      LEFT JOIN under_way u ON u.plan_id = heads.plan_id
     CROSS JOIN bound
     CROSS JOIN in_force
     WHERE (COALESCE(u.runs, 0) < in_force.per_plan) IS NOT FALSE
     ORDER BY heads.priority DESC, COALESCE(u.runs, 0), heads.created_at, heads.run_id
     LIMIT (SELECT places FROM bound)
), fronts AS (
    SELECT plans.plan_id, one.*, plans.runs + one.rank AS turn
      FROM plans
     CROSS JOIN LATERAL (
        SELECT r.run_id, r.priority, r.created_at,
               row_number() OVER (ORDER BY r.plan_id, r.priority DESC, r.created_at, r.run_id)
                   AS rank
          FROM run r
         WHERE r.plan_id BETWEEN plans.plan_id AND plans.plan_id
           AND r.status = 'waiting'
           AND r.admitted_at IS NULL
         ORDER BY r.plan_id, r.priority DESC, r.created_at, r.run_id
         LIMIT least(plans.room, plans.front)
     ) one
), first AS MATERIALIZED (
    SELECT *
      FROM fronts
     ORDER BY priority DESC, turn, created_at, run_id
     LIMIT (SELECT places FROM bound)
), behind AS (
    SELECT plans.plan_id, one.*, plans.runs + one.rank AS turn
      FROM plans
      JOIN first ON first.plan_id = plans.plan_id AND first.rank = plans.front
     CROSS JOIN LATERAL (
        SELECT r.run_id, r.priority, r.created_at,
               row_number() OVER (ORDER BY r.plan_id, r.priority DESC, r.created_at, r.run_id)
                   AS rank
          FROM run r
         WHERE r.plan_id BETWEEN plans.plan_id AND plans.plan_id
           AND r.status = 'waiting'
           AND r.admitted_at IS NULL
         ORDER BY r.plan_id, r.priority DESC, r.created_at, r.run_id
        OFFSET plans.front
         LIMIT greatest(0, plans.room - plans.front)
     ) one
), turns AS MATERIALIZED (
    SELECT run_id, row_number() OVER (ORDER BY priority DESC, turn, created_at, run_id) AS place
      FROM (TABLE first UNION ALL TABLE behind) AS found
     ORDER BY place
     LIMIT (SELECT places FROM bound)
)

-- name: admit

-- Admits the Runs whose turn it is, by the limits on record; skips those that are being stopped or
-- deactivated. The Runs of one Plan, all pending for one reason, must not fill all of that, and must
-- not all go on at once when it is over.
WITH RECURSIVE in_force AS MATERIALIZED (
    SELECT total::bigint AS total,
           least(per_plan, total)::bigint AS per_plan,
           greatest(total, least(%(with_pending)s * total::bigint, %(most_with_pending)s)) AS ceiling
      FROM admission
), /*turns*/, chosen AS (
    SELECT run_id
      FROM run
     WHERE run_id = ANY (ARRAY(SELECT run_id FROM turns))
       AND status = 'waiting'
       AND admitted_at IS NULL
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE run
   SET admitted_at = date_trunc('milliseconds', clock_timestamp())
 WHERE run_id = ANY (ARRAY(SELECT run_id FROM chosen))

-- name: places

-- Where these Runs stand in the queue (NULL: behind its first), and what they wait for: how many
-- Runs are under way and how many of these are pending, of their Plan and of all, and the limits.
-- No row: it does not wait any longer.
WITH RECURSIVE in_force AS MATERIALIZED (
    SELECT NULL::bigint AS total, NULL::bigint AS per_plan, NULL::bigint AS ceiling
), /*turns*/
SELECT r.run_id, turns.place, p.active,
       COALESCE(u.runs, 0) AS of_plan,
       COALESCE(u.pending, 0) AS of_plan_pending,
       (SELECT COALESCE(sum(runs), 0)::bigint FROM under_way) AS of_all,
       (SELECT COALESCE(sum(pending), 0)::bigint FROM under_way) AS of_all_pending,
       a.total, a.per_plan, a.held
  FROM run r
  JOIN plan p USING (plan_id)
  LEFT JOIN turns USING (run_id)
  LEFT JOIN under_way u USING (plan_id)
  LEFT JOIN admission a ON true
 WHERE r.run_id = ANY (%(run_ids)s::uuid[])
   AND r.status = 'waiting'
   AND r.admitted_at IS NULL

-- name: hooks_waited_for

-- The Before hook that each of these Runs waits for: of those that have not agreed to a change from
-- its present status, the one that was called last.
SELECT DISTINCT ON (d.run_id)
       d.run_id, d.delivery_id, d.url, d.to_status, d.attempts, d.answer, d.next_at,
       d.called_at, d.state, clock_timestamp() - d.called_at AS called_ago
  FROM hook_delivery d
  JOIN run r ON r.run_id = d.run_id
            AND r.generation = d.generation
            AND r.status = d.from_status
 WHERE d.run_id = ANY (%(run_ids)s::uuid[])
   AND d.phase = 'before'
   AND d.state IN ('calling', 'failed')
 ORDER BY d.run_id, d.called_at DESC, d.delivery_id

-- name: limits

-- The limits in force, so that the API can say why a Run waits. Written only when they change. Once
-- as many Runs as are usual have ended within the last two seconds, `short` is the limit.
WITH wanted AS MATERIALIZED (
    SELECT CASE WHEN %(short)s::int > %(usual)s::int
                 AND %(usual)s::int <= (SELECT count(*)
                                          FROM (SELECT
                                                  FROM run
                                                 WHERE status IN ('done', 'failed')
                                                   AND updated_at > now() - interval '2 seconds'
                                                 LIMIT %(usual)s::int) AS lately)
                THEN %(short)s::int
                ELSE %(usual)s::int END AS total
)
INSERT INTO admission (total, per_plan, held)
SELECT wanted.total, %(per_plan)s::int, %(held)s::text
  FROM wanted
 WHERE NOT EXISTS (SELECT
                     FROM admission a
                    WHERE a.total = wanted.total
                      AND a.per_plan IS NOT DISTINCT FROM %(per_plan)s::int
                      AND a.held IS NOT DISTINCT FROM %(held)s::text)
    ON CONFLICT (singleton) DO UPDATE
   SET total = excluded.total, per_plan = excluded.per_plan, held = excluded.held
