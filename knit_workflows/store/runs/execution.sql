-- name: specs

-- Everything needed to carry out these Runs.
SELECT r.run_id, r.generation, r.status, r.plan_id, p.repository, p.image_tag, p.image_digest,
       p.entrypoint, p.args, p.on_node, p.resources, p.service_account, p.options,
       r.hook_env,
       /*in_force*/ AS hooked,
       CASE WHEN r.status = 'waiting' THEN /*origin*/ END AS origin,
       (SELECT jsonb_agg(jsonb_build_array(i.path, d.knit_id, d.volume) ORDER BY i.position)
          FROM run_input ri
          JOIN plan_input i USING (input_id)
          JOIN data d ON d.knit_id = ri.knit_id
         WHERE ri.run_id = r.run_id) AS inputs,
       (SELECT jsonb_agg(jsonb_build_array(o.path, d.knit_id, d.volume, o.is_log)
                         ORDER BY o.position)
          FROM data d
          JOIN plan_output o USING (output_id)
         WHERE d.run_id = r.run_id) AS outputs
  FROM run r
  JOIN plan p USING (plan_id)
 WHERE r.run_id = ANY (%(run_ids)s::uuid[])

-- name: origin

-- Part of `specs`: what `knit admin rebuild` needs to know of a Run whose volumes are to be made.
jsonb_build_object(
    'version', 1,
    'run', jsonb_build_object(
        'run_id', r.run_id, 'generation', r.generation, 'priority', r.priority,
        'assignment_hash', encode(r.assignment_hash, 'hex'), 'created_at', r.created_at),
    'inputs', (SELECT jsonb_agg(jsonb_build_array(i.position, d.knit_id, d.volume))
                 FROM run_input ri
                 JOIN plan_input i USING (input_id)
                 JOIN data d ON d.knit_id = ri.knit_id
                WHERE ri.run_id = r.run_id),
    'outputs', (SELECT jsonb_agg(jsonb_build_array(o.position, d.knit_id))
                  FROM data d
                  JOIN plan_output o USING (output_id)
                 WHERE d.run_id = r.run_id),
    -- Beside the outputs, so that a knit which does not know of it reads the rest.
    'volumes', (SELECT jsonb_object_agg(d.knit_id, d.volume)
                  FROM data d
                 WHERE d.run_id = r.run_id),
    'plan', to_jsonb(p) - ARRAY['name', 'active', 'annotations'] || jsonb_build_object(
        'inputs', (SELECT jsonb_agg(jsonb_build_object(
                              'position', i.position, 'path', i.path,
                              'pinned_knit_id', i.pinned_knit_id,
                              'pinned_timestamp', i.pinned_timestamp,
                              'tags', (SELECT coalesce(jsonb_agg(jsonb_build_array(t.key, t.value)),
                                                       '[]')
                                         FROM plan_input_tag x
                                         JOIN tag t USING (tag_id)
                                        WHERE x.input_id = i.input_id)))
                     FROM plan_input i
                    WHERE i.plan_id = p.plan_id),
        'outputs', (SELECT jsonb_agg(jsonb_build_object(
                               'position', o.position, 'path', o.path, 'is_log', o.is_log,
                               'tags', (SELECT coalesce(jsonb_agg(jsonb_build_array(t.key, t.value)),
                                                        '[]')
                                          FROM plan_output_tag x
                                          JOIN tag t USING (tag_id)
                                         WHERE x.output_id = o.output_id)))
                      FROM plan_output o
                     WHERE o.plan_id = p.plan_id)))

-- name: advance

-- Compare and set: moves the Run if generation and status allow it, records that, wakes waiters.
-- `cur` waits for the row's lock and then has its newest version; `moved` follows it there.
-- `hooked`: hooks are in force that have not been called, so the Run stays as it is.
WITH cur AS MATERIALIZED (
    SELECT run_id, generation, status, admitted_at,
           /*not_asked*/ AS hooked
      FROM run
     WHERE run_id = %(run_id)s
       FOR NO KEY UPDATE
), moved AS (
    UPDATE run
       SET status = %(target)s,
           updated_at = date_trunc('milliseconds', clock_timestamp()),
           exit_code = CASE WHEN %(has_exit)s THEN %(exit_code)s::smallint
                            ELSE run.exit_code END,
           exit_message = CASE WHEN %(has_exit)s THEN %(exit_message)s::text
                               ELSE run.exit_message END,
           image_digest = COALESCE(%(image_digest)s::text, run.image_digest),
           notes = run.notes || %(notes)s::text[],
           used_resources = COALESCE(%(used_resources)s::jsonb, run.used_resources),
           used_service_account = CASE WHEN %(used_resources)s::jsonb IS NULL
                                       THEN run.used_service_account
                                       ELSE %(used_service_account)s::text END,
           used_options = run.used_options || %(options)s::jsonb,
           hook_env = CASE WHEN %(target)s IN ('waiting', 'ready') THEN run.hook_env END,
           holdup = NULL
      FROM cur
     WHERE run.run_id = cur.run_id
       AND cur.generation = %(generation)s
       AND cur.status = ANY (%(sources)s::text[])
       AND NOT cur.hooked
 RETURNING run.run_id, run.generation, run.status, run.updated_at, cur.status AS before,
           cur.admitted_at
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause,
                           exit_code, exit_message, actor, timeline, used)
    SELECT run_id, generation, updated_at, before, status, %(cause)s,
           %(exit_code)s::smallint, %(exit_message)s::text, %(actor)s,
           CASE status WHEN 'ready' THEN jsonb_strip_nulls(jsonb_build_object('admitted', admitted_at))
                       ELSE %(timeline)s::jsonb END,
           CASE WHEN %(used_resources)s::jsonb IS NOT NULL
                THEN jsonb_build_object('resources', %(used_resources)s::jsonb,
                                        'service_account', %(used_service_account)s::text,
                                        'options', %(options)s::jsonb)
                WHEN %(options)s::jsonb <> '{}'
                THEN jsonb_build_object('options', %(options)s::jsonb) END
      FROM moved
)
SELECT cur.generation, COALESCE(moved.status, cur.status) AS status,
       cur.hooked AND cur.status = ANY (%(sources)s::text[]) AS refused,
       CASE WHEN moved.run_id IS NOT NULL
            THEN pg_notify(%(run_channel)s, moved.run_id::text)::text END AS notified
  FROM cur
  LEFT JOIN moved USING (run_id)

-- name: hold_up

-- Why a Run does not start, or end, in the status `at` (`kind` NULL: nothing keeps it any longer).
-- The same reason is not written again, even if its message differs; another one adds a line to the
-- history, up to `most` of them. `since` stays while the kind does. Another reason wakes the
-- Projector: a pending Run makes room for others.
WITH cur AS MATERIALIZED (
    SELECT run_id, generation, status, holdup
      FROM run
     WHERE run_id = %(run_id)s
       FOR NO KEY UPDATE
), wanted AS (
    SELECT cur.*, date_trunc('milliseconds', clock_timestamp()) AS now,
           (holdup->>'kind', holdup->>'code') IS DISTINCT FROM (%(kind)s::text, %(code)s::text)
               AS is_other
      FROM cur
     WHERE generation = %(generation)s
       AND status = %(at)s
       AND (holdup->>'kind', holdup->>'code', (holdup->>'until')::timestamptz)
           IS DISTINCT FROM (%(kind)s::text, %(code)s::text, %(until)s::timestamptz)
), changed AS (
    UPDATE run
       SET holdup = CASE WHEN %(kind)s::text IS NOT NULL THEN jsonb_build_object(
               'kind', %(kind)s::text, 'code', %(code)s::text, 'message', %(message)s::text,
               'until', %(until)s::timestamptz,
               'since', CASE WHEN wanted.holdup->>'kind' = %(kind)s::text
                             THEN (wanted.holdup->>'since')::timestamptz
                             ELSE wanted.now END) END
      FROM wanted
     WHERE run.run_id = wanted.run_id
 RETURNING run.run_id, run.generation, run.status, wanted.now, wanted.is_other
), news AS (
    SELECT changed.*
      FROM changed
     WHERE is_other
       AND %(most)s > (SELECT count(*)
                         FROM run_event e
                        WHERE e.run_id = changed.run_id
                          AND e.generation = changed.generation
                          AND e.from_status = e.to_status)
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause)
    SELECT run_id, generation, now, status, status, %(cause)s
      FROM news
     WHERE %(kind)s::text IS NOT NULL
)
SELECT cur.generation, cur.status, EXISTS (SELECT FROM news) AS is_news,
       (SELECT count(pg_notify(%(outbox_channel)s, '')::text) FROM changed WHERE is_other) AS notified
  FROM cur

-- name: finalize

-- The end of a Run: its status, the time of its Data, the history, and one event per Data if done.
-- The Projector is woken after a failure too: another Run may start.
WITH cur AS MATERIALIZED (
    SELECT run_id, generation, status, /*not_asked*/ AS hooked,
           CASE status WHEN 'completing' THEN 'done' WHEN 'aborting' THEN 'failed' END AS target
      FROM run
     WHERE run_id = %(run_id)s
       FOR NO KEY UPDATE
), moved AS (
    UPDATE run
       SET status = cur.target,
           hook_env = NULL,
           holdup = NULL,
           updated_at = date_trunc('milliseconds', clock_timestamp())
      FROM cur
     WHERE run.run_id = cur.run_id
       AND cur.generation = %(generation)s
       AND cur.target IS NOT NULL
       AND NOT cur.hooked
 RETURNING run.run_id, run.generation, run.status, run.updated_at, cur.status AS before,
           run.exit_code, run.exit_message
), stamped AS (
    UPDATE data
       SET timestamp = moved.updated_at
      FROM moved
     WHERE data.run_id = moved.run_id
 RETURNING data.knit_id
), noted AS (
    INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause,
                           exit_code, exit_message)
    SELECT run_id, generation, updated_at, before, status, %(cause)s, exit_code, exit_message
      FROM moved
), queued AS (
    INSERT INTO outbox (kind, subject, created_at)
    SELECT 'data_ready', stamped.knit_id, moved.updated_at
      FROM stamped, moved
     WHERE moved.status = 'done'
     ORDER BY stamped.knit_id
)
SELECT cur.generation, COALESCE(moved.status, cur.status) AS status,
       cur.hooked AND cur.target IS NOT NULL AS refused,
       CASE WHEN moved.run_id IS NOT NULL THEN
            pg_notify(%(run_channel)s, moved.run_id::text)::text
            || pg_notify(%(outbox_channel)s, '')::text END AS notified
  FROM cur
  LEFT JOIN moved USING (run_id)

-- name: entrust

-- Lets a Run that was never admitted have a workflow; the Projector is woken to start it.
WITH admitted AS (
    UPDATE run
       SET admitted_at = date_trunc('milliseconds', clock_timestamp())
     WHERE run_id = %(run_id)s
       AND generation = %(generation)s
       AND status IN ('running', 'completing', 'aborting')
       AND admitted_at IS NULL
 RETURNING run_id
)
SELECT pg_notify(%(outbox_channel)s, '') FROM admitted
