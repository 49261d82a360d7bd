-- name: revision

-- Whether the database was ever migrated (NULL: never).
SELECT to_regclass('alembic_version')::text AS versions

-- name: current

-- The revision itself.
SELECT version_num AS revision FROM alembic_version

-- name: ping

-- Any result will do.
SELECT 1
