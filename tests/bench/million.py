"""A million Runs, each with its Data, made by SQL alone in about a minute.

```
      1 …  100,000   uploads
100,001 …  400,000   300 chains of 1,000 Runs, each behind an upload
400,001 …  800,000   80 trees of 5,000 Runs: every Data is used by ten more (the leaves not)
800,001 … 1,000,000  500 lattices of 100 layers of four Runs; two inputs are of the layer before
```
Runs are numbered in the order of time, so that what belongs together lies together, as in life.
Tags have skew: three types (10 %, 60 % and 30 % of all), 200 projects (each a stretch of time, from
half of all down to 600 Data), 1,000 stages, 50,000 releases of 20 Data. Of the leaves of the trees
some wait, some have failed, some were deleted.
"""

from __future__ import annotations

from typing import Final

import psycopg

SIZE: Final = 1_000_000
CHAIN, TREE, LATTICE = 100_000, 400_000, 800_000
"""Behind which number the shapes begin."""

_TAGS: Final = """
INSERT INTO tag (digest, key, value)
SELECT sha256(convert_to(key, 'UTF8') || '\\x00' || convert_to(value, 'UTF8')), key, value FROM (
    SELECT 'type', unnest(ARRAY['dataset', 'model', 'report']) UNION ALL
    SELECT 'project', 'p' || n FROM generate_series(0, 199) n UNION ALL
    SELECT 'stage', 's' || n FROM generate_series(0, 999) n UNION ALL
    SELECT 'release', 'r' || n FROM generate_series(0, 49999) n) AS t (key, value)
"""

_PLANS: Final = """
CREATE TEMP TABLE stage AS
SELECT n, gen_random_uuid() AS plan_id FROM generate_series(0, 999) n;
INSERT INTO plan (plan_id, identity_hash, repository, image_tag, annotations, created_at)
SELECT plan_id, 'bench-' || n, 'registry.example/team/stage-' || n, 'v1',
       jsonb_build_array(jsonb_build_array('owner', 'team-' || n % 7)), now()
  FROM stage;
INSERT INTO plan_input (plan_id, position, path, tag_count)
SELECT plan_id, 0, '/in/a', 1 FROM stage UNION ALL
SELECT plan_id, 1, '/in/b', 1 FROM stage WHERE n >= 700;
INSERT INTO plan_input_tag (tag_id, input_id)
SELECT t.tag_id, i.input_id
  FROM stage
  JOIN plan_input i USING (plan_id)
  JOIN tag t ON t.key = 'stage' AND t.value = 's' || (stage.n + 999) % 1000;
INSERT INTO plan_output (plan_id, position, path)
SELECT plan_id, 1, '/out' FROM stage;
INSERT INTO plan_output_tag (tag_id, output_id)
SELECT t.tag_id, o.output_id
  FROM stage
  JOIN plan_output o USING (plan_id)
  JOIN tag t ON t.key = 'stage' AND t.value = 's' || stage.n;
"""

# Parents are numbers too; those of chains, trees and lattices begin with uploads.
_SHAPES: Final = """
CREATE TEMP TABLE bulk AS
SELECT n, gen_random_uuid() AS run_id, gen_random_uuid() AS knit_id,
       CASE WHEN n > 800000 THEN 700 + k % 300 WHEN n > 400000 THEN 300 + k / 5000 * 5
            WHEN n > 100000 THEN k % 300 END AS stage,
       CASE WHEN n > 800000 AND k % 400 >= 4 THEN n - 4
            WHEN n > 400000 AND n <= 800000 AND k % 5000 > 0
            THEN n - k % 5000 + (k % 5000 - 1) / 10
            WHEN n > 100000 AND n <= 400000 AND k % 1000 > 0 THEN n - 1
            WHEN n > 100000 THEN n / 10 END AS a,
       CASE WHEN n > 800000 AND k % 400 >= 4 THEN n - 4 - k % 4 + (k + 1) % 4
            WHEN n > 800000 THEN n / 10 + 1 END AS b,
       CASE WHEN n <= 400000 OR n > 800000 OR k % 5000 < 500 THEN 'done'
            WHEN n % 100 < 10 THEN 'waiting' WHEN n % 100 < 13 THEN 'deactivated'
            WHEN n % 100 < 22 THEN 'failed' WHEN n % 100 < 25 THEN 'invalidated'
            WHEN n % 3600 = 26 THEN 'running' ELSE 'done' END AS status,
       date_trunc('milliseconds', now()) - (1000000 - n) * interval '10s' AS at
  FROM generate_series(1, 1000000) n,
       LATERAL (SELECT CASE WHEN n > 800000 THEN n - 800001 WHEN n > 400000 THEN n - 400001
                            ELSE n - 100001 END AS k) AS place;
CREATE INDEX ON bulk (n);
ANALYZE bulk;
"""

_RUNS: Final = """
INSERT INTO run (run_id, plan_id, assignment_hash, status, exit_code, exit_message, created_at,
                 updated_at)
SELECT b.run_id, COALESCE(s.plan_id, u.plan_id), CASE WHEN b.a > 0 THEN uuid_send(b.run_id) END,
       b.status, CASE b.status WHEN 'done' THEN 0 WHEN 'failed' THEN 1 END,
       CASE b.status WHEN 'done' THEN '' WHEN 'failed' THEN 'Error' END, b.at, b.at
  FROM bulk b
  LEFT JOIN stage s ON s.n = b.stage
  JOIN plan u ON u.name = 'knit#uploaded'
 ORDER BY b.n;
INSERT INTO run_event (run_id, generation, at, to_status, cause)
SELECT run_id, 1, at, status, 'bench' FROM bulk ORDER BY n;
INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
SELECT b.knit_id, b.run_id, COALESCE(o.output_id, u.output_id), 'data-knitid-' || b.knit_id,
       CASE WHEN b.status IN ('done', 'failed') THEN b.at END
  FROM bulk b
  LEFT JOIN stage s ON s.n = b.stage
  LEFT JOIN plan_output o ON o.plan_id = s.plan_id
  JOIN plan_output u ON u.path = '/upload'
 WHERE b.status <> 'invalidated'
 ORDER BY b.n;
INSERT INTO run_input (run_id, input_id, knit_id)
SELECT b.run_id, i.input_id, p.knit_id
  FROM bulk b
  JOIN stage s ON s.n = b.stage
  JOIN plan_input i USING (plan_id)
  JOIN bulk p ON p.n = CASE i.position WHEN 0 THEN b.a ELSE b.b END;
"""

# A project is a stretch of time: the power makes the first one large and the last ones small.
_LABELS: Final = """
CREATE TEMP TABLE label AS SELECT key || ':' || value AS text, tag_id FROM tag;
INSERT INTO data_tag (tag_id, knit_id, timestamp)
SELECT label.tag_id, b.knit_id, CASE WHEN b.status IN ('done', 'failed') THEN b.at END
  FROM bulk b
 CROSS JOIN LATERAL (VALUES
        ('stage:s' || b.stage),
        ('type:' || CASE WHEN b.n % 10 = 0 THEN 'dataset' WHEN b.n % 10 < 7 THEN 'model'
                         ELSE 'report' END),
        ('project:p' || floor(200 * power(b.n / 1000001.0, 8))),
        ('release:r' || b.n % 50000)) AS wish (text)
  JOIN label USING (text)
 WHERE b.status <> 'invalidated';
"""


# Nobody refers to these keys, so that they can be made afterwards too.
_LATER: Final = """
SELECT format('ALTER TABLE %I DROP CONSTRAINT %I', conrelid::regclass, conname),
       format('ALTER TABLE %I ADD CONSTRAINT %I %s', conrelid::regclass, conname,
              pg_get_constraintdef(oid))
  FROM pg_constraint
 WHERE contype = 'p'
   AND conrelid = ANY (ARRAY['data_tag', 'run_input', 'run_event']::regclass[])
 UNION ALL
SELECT format('DROP INDEX %I', indexname), indexdef
  FROM pg_indexes
 WHERE tablename = ANY (ARRAY['run', 'data', 'data_tag', 'run_input', 'run_event'])
   AND indexname ~ '^(ix|ux)_'
"""

_LOADING: Final = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET max_wal_size = '8GB'",
    "SELECT pg_reload_conf()",
    "SET session_replication_role = replica",  # keys are right by construction
    "SET maintenance_work_mem = '256MB'",
    "SET work_mem = '128MB'",
    "SET synchronous_commit = off",
)


_UNSTAMPED: Final = _LABELS.replace(", timestamp)", ")").replace(
    ", CASE WHEN b.status IN ('done', 'failed') THEN b.at END", ""
)
"""Before revision 0003 tags had no time."""


def fill(url: str, *, stamped: bool = True) -> None:
    """Makes it in a migrated, empty database, on a server of the bench's own."""
    labels = _LABELS if stamped else _UNSTAMPED
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _LOADING:
            connection.execute(statement.encode())
        # Indexes are made faster afterwards.
        later = connection.execute(_LATER.encode()).fetchall()
        for drop, _ in later:
            connection.execute(drop.encode())
        for statements in (_TAGS, _PLANS, _SHAPES, _RUNS, labels):
            connection.execute(statements.encode())
        for _, make in later:
            connection.execute(make.encode())
        connection.execute("VACUUM ANALYZE")
