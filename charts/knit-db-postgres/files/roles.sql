-- The owner of knit's tables and the role of API and workers, as their Secrets say; knit's database.
-- Every statement may be repeated.
\set owner `cat /credentials/owner/username`
\set owner_password `cat /credentials/owner/password`
\set application `cat /credentials/application/username`
\set application_password `cat /credentials/application/password`
\set database `echo "$KNIT_DATABASE"`

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY [:'owner', :'application']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

SELECT format(
    'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD %L',
    name, password
)
FROM (VALUES (:'owner', :'owner_password'), (:'application', :'application_password'))
    AS role (name, password) \gexec

SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec

-- Of the roles, only these two get in.
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"application";
