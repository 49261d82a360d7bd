-- A role for Temporal and its two databases. Every statement may be repeated.
\set temporal `cat /credentials/temporal/username`
\set temporal_password `cat /credentials/temporal/password`

SELECT format('CREATE ROLE %I', :'temporal')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'temporal') \gexec

SELECT format(
    'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD %L',
    :'temporal', :'temporal_password'
) \gexec

SELECT format('CREATE DATABASE %I OWNER %I', name, :'temporal')
FROM unnest(ARRAY ['temporal', 'temporal_visibility']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec

REVOKE ALL ON DATABASE temporal FROM PUBLIC;
REVOKE ALL ON DATABASE temporal_visibility FROM PUBLIC;
