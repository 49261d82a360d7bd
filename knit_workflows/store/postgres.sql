-- name: revision

-- Whether the database was ever migrated (NULL: never).
SELECT to_regclass('alembic_version')::text AS versions

-- name: current

-- The revision itself, and the oldest whose programs it serves: a comment, since an earlier program
-- knows neither tables nor columns that came later.
SELECT version_num AS revision,
       substring(
           obj_description('alembic_version'::regclass, 'pg_class')
           FROM '^serves programs from revision (\d{4}) on$'
       ) AS serves
  FROM alembic_version

-- name: ping

-- Any result will do.
SELECT 1
