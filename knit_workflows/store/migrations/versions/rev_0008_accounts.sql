-- Tokens of knit's own: of their text only the digest is kept, and a beginning to know them by.
CREATE TABLE token (
    token_id UUID NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    projects JSONB NOT NULL DEFAULT '[]',
    digest TEXT NOT NULL,
    prefix TEXT NOT NULL,
    created_at TIMESTAMPTZ(3) NOT NULL,
    created_by TEXT NOT NULL,
    expires_at TIMESTAMPTZ(3),
    revoked_at TIMESTAMPTZ(3),
    revoked_by TEXT,
    last_used_at TIMESTAMPTZ(3),
    CONSTRAINT pk_token PRIMARY KEY (token_id),
    CONSTRAINT uq_token_digest UNIQUE (digest),
    CONSTRAINT ck_token_role CHECK (role IN ('viewer', 'editor', 'operator', 'admin'))
);
CREATE INDEX ix_token_name ON token (name) WHERE revoked_at IS NULL;

-- A row is written before a request is carried out, and another, which refers to it, afterwards.
CREATE TABLE audit (
    entry_id BIGINT GENERATED ALWAYS AS IDENTITY,
    outcome_of BIGINT,
    at TIMESTAMPTZ(3) NOT NULL,
    subject TEXT NOT NULL DEFAULT '',
    actor TEXT NOT NULL DEFAULT '',
    method TEXT NOT NULL DEFAULT '',
    route TEXT NOT NULL DEFAULT '',
    targets JSONB NOT NULL DEFAULT '{}',
    address TEXT NOT NULL DEFAULT '',
    status SMALLINT,
    CONSTRAINT pk_audit PRIMARY KEY (entry_id),
    CONSTRAINT fk_audit_outcome_of FOREIGN KEY (outcome_of) REFERENCES audit (entry_id),
    CONSTRAINT uq_audit_outcome_of UNIQUE (outcome_of),
    CONSTRAINT ck_audit_outcome CHECK (outcome_of IS NULL OR status IS NOT NULL)
);
CREATE INDEX ix_audit_at ON audit (at) WHERE outcome_of IS NULL;
CREATE INDEX ix_audit_actor ON audit (actor, entry_id) WHERE outcome_of IS NULL;

-- For everybody, the owner of the table included; others cannot even disable it.
CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
