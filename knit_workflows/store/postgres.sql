-- name: revision

-- The revision the database is at; NULL when it never was migrated.
SELECT to_regclass('alembic_version')::text AS versions

-- name: current

-- The revision itself.
SELECT version_num AS revision FROM alembic_version

-- name: ping

-- Any answer will do.
SELECT 1
