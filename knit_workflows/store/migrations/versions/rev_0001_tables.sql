-- The first tables; `tables.py` says what they are for.

CREATE TABLE outbox (
    event_id BIGINT GENERATED ALWAYS AS IDENTITY,
    kind TEXT NOT NULL,
    subject UUID NOT NULL,
    payload JSONB DEFAULT '{}' NOT NULL,
    cursor JSONB,
    created_at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_outbox PRIMARY KEY (event_id),
    CONSTRAINT ck_outbox_kind CHECK (kind IN ('data_ready', 'tags_changed', 'plan_registered', 'stop_run'))
);

CREATE INDEX ix_outbox_projection ON outbox (event_id) WHERE kind <> 'stop_run';
CREATE INDEX ix_outbox_stop ON outbox (subject) WHERE kind = 'stop_run';

CREATE TABLE plan (
    plan_id UUID NOT NULL,
    identity_hash TEXT,
    name TEXT,
    repository TEXT,
    image_tag TEXT,
    entrypoint TEXT[] DEFAULT '{}' NOT NULL,
    args TEXT[] DEFAULT '{}' NOT NULL,
    on_node JSONB DEFAULT '[]' NOT NULL,
    resources JSONB DEFAULT '{}' NOT NULL,
    service_account TEXT,
    annotations JSONB DEFAULT '[]' NOT NULL,
    active BOOLEAN DEFAULT true NOT NULL,
    created_at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_plan PRIMARY KEY (plan_id),
    CONSTRAINT uq_plan_identity_hash UNIQUE (identity_hash),
    CONSTRAINT uq_plan_name UNIQUE (name),
    CONSTRAINT ck_plan_image_or_name CHECK ((name IS NULL) = (repository IS NOT NULL AND image_tag IS NOT NULL AND identity_hash IS NOT NULL))
);

CREATE TABLE tag (
    tag_id BIGINT GENERATED ALWAYS AS IDENTITY,
    digest BYTEA NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_tag PRIMARY KEY (tag_id),
    CONSTRAINT uq_tag_digest UNIQUE (digest)
);

CREATE TABLE plan_input (
    input_id BIGINT GENERATED ALWAYS AS IDENTITY,
    plan_id UUID NOT NULL,
    position SMALLINT NOT NULL,
    path TEXT NOT NULL,
    tag_count INTEGER NOT NULL,
    pinned_knit_id TEXT,
    pinned_timestamp TIMESTAMP(3) WITH TIME ZONE,
    CONSTRAINT pk_plan_input PRIMARY KEY (input_id),
    CONSTRAINT uq_plan_input_position UNIQUE (plan_id, position),
    CONSTRAINT uq_plan_input_path UNIQUE (plan_id, path),
    CONSTRAINT fk_plan_input_plan_id FOREIGN KEY(plan_id) REFERENCES plan (plan_id)
);

CREATE INDEX ix_plan_input_pinned_knit_id
    ON plan_input (pinned_knit_id)
    WHERE pinned_knit_id IS NOT NULL;
CREATE INDEX ix_plan_input_pinned_timestamp
    ON plan_input (pinned_timestamp)
    WHERE pinned_timestamp IS NOT NULL;

CREATE TABLE plan_output (
    output_id BIGINT GENERATED ALWAYS AS IDENTITY,
    plan_id UUID NOT NULL,
    position SMALLINT NOT NULL,
    path TEXT NOT NULL,
    is_log BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT pk_plan_output PRIMARY KEY (output_id),
    CONSTRAINT uq_plan_output_position UNIQUE (plan_id, position),
    CONSTRAINT fk_plan_output_plan_id FOREIGN KEY(plan_id) REFERENCES plan (plan_id)
);

CREATE UNIQUE INDEX ux_plan_output_log ON plan_output (plan_id) WHERE is_log;

CREATE TABLE run (
    run_id UUID NOT NULL,
    plan_id UUID NOT NULL,
    assignment_hash BYTEA,
    generation INTEGER DEFAULT 1 NOT NULL,
    status TEXT NOT NULL,
    exit_code SMALLINT,
    exit_message TEXT,
    priority INTEGER DEFAULT 0 NOT NULL,
    admitted_at TIMESTAMP(3) WITH TIME ZONE,
    workflow_started_at TIMESTAMP(3) WITH TIME ZONE,
    created_at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    image_digest TEXT,
    used_resources JSONB,
    used_service_account TEXT,
    CONSTRAINT pk_run PRIMARY KEY (run_id),
    CONSTRAINT uq_run_assignment UNIQUE (plan_id, assignment_hash),
    CONSTRAINT ck_run_status CHECK (status IN ('deactivated', 'waiting', 'ready', 'starting', 'running', 'completing', 'aborting', 'done', 'failed', 'invalidated')),
    CONSTRAINT fk_run_plan_id FOREIGN KEY(plan_id) REFERENCES plan (plan_id)
);

CREATE INDEX ix_run_admitted
    ON run (plan_id)
    WHERE admitted_at IS NOT NULL AND status NOT IN ('done', 'failed', 'invalidated');
CREATE INDEX ix_run_deactivated ON run (plan_id) WHERE status = 'deactivated';
CREATE INDEX ix_run_queue
    ON run (priority DESC, created_at, run_id)
    WHERE status = 'waiting' AND admitted_at IS NULL;
CREATE INDEX ix_run_queue_of_plan
    ON run (plan_id, priority DESC, created_at, run_id)
    WHERE status = 'waiting' AND admitted_at IS NULL;
CREATE INDEX ix_run_stopped_unadmitted
    ON run (run_id)
    WHERE status = 'aborting' AND admitted_at IS NULL;
CREATE INDEX ix_run_updated ON run (updated_at, run_id);

CREATE TABLE data (
    knit_id UUID NOT NULL,
    run_id UUID NOT NULL,
    output_id BIGINT NOT NULL,
    volume TEXT NOT NULL,
    timestamp TIMESTAMP(3) WITH TIME ZONE,
    CONSTRAINT pk_data PRIMARY KEY (knit_id),
    CONSTRAINT uq_data_run_output UNIQUE (run_id, output_id),
    CONSTRAINT fk_data_run_id FOREIGN KEY(run_id) REFERENCES run (run_id),
    CONSTRAINT fk_data_output_id FOREIGN KEY(output_id) REFERENCES plan_output (output_id)
);

CREATE INDEX ix_data_timestamp ON data (timestamp, knit_id);

CREATE TABLE plan_input_tag (
    tag_id BIGINT NOT NULL,
    input_id BIGINT NOT NULL,
    CONSTRAINT pk_plan_input_tag PRIMARY KEY (tag_id, input_id),
    CONSTRAINT fk_plan_input_tag_tag_id FOREIGN KEY(tag_id) REFERENCES tag (tag_id),
    CONSTRAINT fk_plan_input_tag_input_id FOREIGN KEY(input_id) REFERENCES plan_input (input_id)
);

CREATE INDEX ix_plan_input_tag_input ON plan_input_tag (input_id, tag_id);

CREATE TABLE plan_output_tag (
    tag_id BIGINT NOT NULL,
    output_id BIGINT NOT NULL,
    CONSTRAINT pk_plan_output_tag PRIMARY KEY (tag_id, output_id),
    CONSTRAINT fk_plan_output_tag_tag_id FOREIGN KEY(tag_id) REFERENCES tag (tag_id),
    CONSTRAINT fk_plan_output_tag_output_id FOREIGN KEY(output_id) REFERENCES plan_output (output_id)
);

CREATE INDEX ix_plan_output_tag_output ON plan_output_tag (output_id, tag_id);

CREATE TABLE run_event (
    event_id BIGINT GENERATED ALWAYS AS IDENTITY,
    run_id UUID NOT NULL,
    generation INTEGER NOT NULL,
    at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    from_status TEXT,
    to_status TEXT NOT NULL,
    cause TEXT NOT NULL,
    exit_code SMALLINT,
    exit_message TEXT,
    CONSTRAINT pk_run_event PRIMARY KEY (event_id),
    CONSTRAINT fk_run_event_run_id FOREIGN KEY(run_id) REFERENCES run (run_id)
);

CREATE INDEX ix_run_event_run ON run_event (run_id, event_id);

CREATE TABLE data_tag (
    tag_id BIGINT NOT NULL,
    knit_id UUID NOT NULL,
    CONSTRAINT pk_data_tag PRIMARY KEY (tag_id, knit_id),
    CONSTRAINT fk_data_tag_tag_id FOREIGN KEY(tag_id) REFERENCES tag (tag_id),
    CONSTRAINT fk_data_tag_knit_id FOREIGN KEY(knit_id) REFERENCES data (knit_id)
);

CREATE INDEX ix_data_tag_data ON data_tag (knit_id, tag_id);

CREATE TABLE run_input (
    run_id UUID NOT NULL,
    input_id BIGINT NOT NULL,
    knit_id UUID NOT NULL,
    CONSTRAINT pk_run_input PRIMARY KEY (run_id, input_id),
    CONSTRAINT fk_run_input_run_id FOREIGN KEY(run_id) REFERENCES run (run_id),
    CONSTRAINT fk_run_input_input_id FOREIGN KEY(input_id) REFERENCES plan_input (input_id),
    CONSTRAINT fk_run_input_knit_id FOREIGN KEY(knit_id) REFERENCES data (knit_id)
);

CREATE INDEX ix_run_input_data ON run_input (knit_id, run_id, input_id);

CREATE TABLE transfer (
    transfer_id TEXT NOT NULL,
    knit_id UUID NOT NULL,
    mode TEXT NOT NULL,
    token TEXT NOT NULL,
    endpoint TEXT DEFAULT '' NOT NULL,
    created_at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_transfer PRIMARY KEY (transfer_id),
    CONSTRAINT ck_transfer_mode CHECK (mode IN ('read', 'write')),
    CONSTRAINT fk_transfer_knit_id FOREIGN KEY(knit_id) REFERENCES data (knit_id)
);

CREATE INDEX ix_transfer_data ON transfer (knit_id);
CREATE UNIQUE INDEX ux_transfer_write ON transfer (knit_id) WHERE mode = 'write';

-- The built-in Plans: they give every Data a producing Run, so that lineage has a root.
INSERT INTO plan (plan_id, name, created_at) VALUES
    ('00000000-0000-4000-8000-6b6e69740001', 'knit#uploaded', date_trunc('milliseconds', now())),
    ('00000000-0000-4000-8000-6b6e69740002', 'knit#imported', date_trunc('milliseconds', now()));

INSERT INTO plan_output (plan_id, position, path) VALUES
    ('00000000-0000-4000-8000-6b6e69740001', 0, '/upload'),
    ('00000000-0000-4000-8000-6b6e69740002', 0, '/imported');
