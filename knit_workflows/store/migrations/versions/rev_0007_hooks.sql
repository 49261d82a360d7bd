-- All of them first, in the order in which most statements use them: whoever had one of them already
-- and waited for `data` would be waited for by us. Until the end nobody reads these tables.
LOCK TABLE run, run_event, data IN ACCESS EXCLUSIVE MODE;

-- Whether knit may delete the volume; not one that it has only adopted. When its content was purged.
ALTER TABLE data ADD COLUMN owned BOOLEAN NOT NULL DEFAULT true;
ALTER TABLE data ADD COLUMN purged_at TIMESTAMPTZ(3);
CREATE UNIQUE INDEX ux_data_adopted ON data (volume) WHERE NOT owned AND purged_at IS NULL;

-- Who made a change: knit itself, or a user.
ALTER TABLE run_event ADD COLUMN actor TEXT NOT NULL DEFAULT 'knit';

-- What Before hooks have answered for the pod of a Run; gone once the pod is there.
ALTER TABLE run ADD COLUMN hook_env JSONB;

-- Keys that sign the tokens of imports.
CREATE TABLE import_key (
    kid TEXT NOT NULL,
    secret BYTEA NOT NULL,
    created_at TIMESTAMPTZ(3) NOT NULL,
    CONSTRAINT pk_import_key PRIMARY KEY (kid)
);

CREATE TABLE hooks (
    singleton BOOLEAN NOT NULL DEFAULT true,
    before_urls TEXT[] NOT NULL DEFAULT '{}',
    after_urls TEXT[] NOT NULL DEFAULT '{}',
    changed_at TIMESTAMPTZ(3) NOT NULL,
    worker TEXT,
    file TEXT,
    digest TEXT,
    CONSTRAINT pk_hooks PRIMARY KEY (singleton),
    CONSTRAINT ck_hooks_singleton CHECK (singleton)
);
INSERT INTO hooks (changed_at) VALUES (date_trunc('milliseconds', clock_timestamp()));

CREATE TABLE hook_follower (
    worker TEXT NOT NULL,
    file TEXT NOT NULL,
    digest TEXT NOT NULL,
    problem TEXT NOT NULL,
    since TIMESTAMPTZ(3) NOT NULL,
    seen_at TIMESTAMPTZ(3) NOT NULL,
    CONSTRAINT pk_hook_follower PRIMARY KEY (worker)
);

CREATE TABLE hook_delivery (
    delivery_id UUID NOT NULL,
    run_id UUID NOT NULL,
    generation INTEGER NOT NULL,
    from_status TEXT NOT NULL,
    to_status TEXT NOT NULL,
    phase TEXT NOT NULL,
    url TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    state TEXT NOT NULL,
    status_code SMALLINT,
    answer TEXT,
    duration_ms INTEGER,
    created_at TIMESTAMPTZ(3) NOT NULL,
    called_at TIMESTAMPTZ(3) NOT NULL,
    next_at TIMESTAMPTZ(3),
    skipped_by TEXT,
    skip_reason TEXT,
    CONSTRAINT pk_hook_delivery PRIMARY KEY (delivery_id),
    CONSTRAINT fk_hook_delivery_run_id FOREIGN KEY (run_id) REFERENCES run (run_id),
    CONSTRAINT uq_hook_delivery
        UNIQUE (run_id, generation, from_status, to_status, phase, url),
    CONSTRAINT ck_hook_delivery_phase CHECK (phase IN ('before', 'after')),
    CONSTRAINT ck_hook_delivery_state
        CHECK (state IN ('calling', 'succeeded', 'failed', 'skipped'))
);
CREATE INDEX ix_hook_delivery_called ON hook_delivery (called_at, delivery_id);
CREATE INDEX ix_hook_delivery_failed ON hook_delivery (called_at, delivery_id)
 WHERE state NOT IN ('succeeded', 'skipped');
