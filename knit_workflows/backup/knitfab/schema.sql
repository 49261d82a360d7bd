-- The tables of Knitfab v1.4 to v1.6 (its schema 3), as far as rows need them. Types and constraints
-- have names of knit's own.

CREATE TYPE run_status AS ENUM
    ('deactivated', 'waiting', 'ready', 'starting', 'running', 'completing', 'aborting', 'done',
     'failed', 'invalidated');
CREATE TYPE on_node_mode AS ENUM ('may', 'prefer', 'must');
CREATE TYPE agent_mode AS ENUM ('read', 'write');

CREATE TABLE schema_version (version INT NOT NULL);
INSERT INTO schema_version VALUES (3);

CREATE TABLE tag_key (
    id SERIAL PRIMARY KEY,
    key VARCHAR(1024) NOT NULL UNIQUE
);
-- Unlike there, not unique: what is unique here may be too large for an index.
CREATE TABLE tag (
    id SERIAL PRIMARY KEY,
    key_id INT NOT NULL REFERENCES tag_key,
    value VARCHAR(1048576) NOT NULL
);

CREATE TABLE plan (
    plan_id VARCHAR(36) PRIMARY KEY,
    active BOOLEAN NOT NULL DEFAULT true,
    hash CHAR(64) NOT NULL
);
CREATE TABLE plan_image (
    plan_id VARCHAR(36) PRIMARY KEY REFERENCES plan,
    image VARCHAR(512) NOT NULL,
    version VARCHAR(128) NOT NULL
);
CREATE TABLE plan_pseudo (
    plan_id VARCHAR(36) PRIMARY KEY REFERENCES plan,
    name VARCHAR NOT NULL UNIQUE
);
CREATE TABLE plan_resource (
    plan_id VARCHAR(36) REFERENCES plan,
    type VARCHAR(1024),
    value VARCHAR(1024) NOT NULL,
    PRIMARY KEY (plan_id, type)
);
CREATE TABLE plan_on_node (
    plan_id VARCHAR(36) REFERENCES plan,
    mode on_node_mode,
    key VARCHAR(316),
    value VARCHAR(63),
    PRIMARY KEY (plan_id, mode, key, value)
);
CREATE TABLE plan_annotation (
    plan_id VARCHAR(36) NOT NULL REFERENCES plan,
    key VARCHAR(253) NOT NULL,
    value VARCHAR(1048576) NOT NULL
);
CREATE TABLE plan_service_account (
    plan_id VARCHAR(36) PRIMARY KEY REFERENCES plan,
    service_account VARCHAR(253) NOT NULL
);
CREATE TABLE plan_entrypoint (
    plan_id VARCHAR(36) PRIMARY KEY REFERENCES plan,
    entrypoint VARCHAR[] NOT NULL
);
CREATE TABLE plan_args (
    plan_id VARCHAR(36) PRIMARY KEY REFERENCES plan,
    args VARCHAR[] NOT NULL
);
CREATE TABLE input (
    input_id SERIAL PRIMARY KEY,
    plan_id VARCHAR(36) NOT NULL REFERENCES plan,
    path VARCHAR(4096) NOT NULL
);
CREATE TABLE output (
    output_id SERIAL PRIMARY KEY,
    plan_id VARCHAR(36) NOT NULL REFERENCES plan,
    path VARCHAR(4096) NOT NULL
);
CREATE TABLE log (
    plan_id VARCHAR(36) PRIMARY KEY REFERENCES plan,
    output_id INT NOT NULL REFERENCES output
);
CREATE TABLE tag_input (
    tag_id INT REFERENCES tag,
    input_id INT REFERENCES input,
    PRIMARY KEY (tag_id, input_id)
);
CREATE TABLE tag_output (
    tag_id INT REFERENCES tag,
    output_id INT REFERENCES output,
    PRIMARY KEY (tag_id, output_id)
);
CREATE TABLE knitid_input (
    input_id INT PRIMARY KEY REFERENCES input,
    knit_id VARCHAR(36) NOT NULL
);
CREATE TABLE timestamp_input (
    input_id INT PRIMARY KEY REFERENCES input,
    "timestamp" TIMESTAMPTZ NOT NULL
);

CREATE TABLE run (
    run_id VARCHAR(36) PRIMARY KEY,
    plan_id VARCHAR(36) NOT NULL REFERENCES plan,
    status run_status NOT NULL DEFAULT 'waiting',
    lifecycle_suspend_until TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE run_exit (
    run_id VARCHAR(36) PRIMARY KEY REFERENCES run,
    exit_code SMALLINT NOT NULL,
    message VARCHAR(1024)
);
CREATE TABLE worker (
    run_id VARCHAR(36) PRIMARY KEY REFERENCES run,
    name VARCHAR(253) NOT NULL
);
CREATE TABLE knit_id (knit_id VARCHAR(36) PRIMARY KEY);
CREATE TABLE data (
    knit_id VARCHAR(36) PRIMARY KEY REFERENCES knit_id,
    volume_ref VARCHAR(5120) NOT NULL UNIQUE,
    plan_id VARCHAR(36) NOT NULL REFERENCES plan,
    run_id VARCHAR(36) NOT NULL REFERENCES run,
    output_id INT NOT NULL REFERENCES output
);
CREATE TABLE assign (
    run_id VARCHAR(36) REFERENCES run,
    input_id INT REFERENCES input,
    plan_id VARCHAR(36) NOT NULL REFERENCES plan,
    knit_id VARCHAR(36) NOT NULL REFERENCES data,
    PRIMARY KEY (run_id, input_id)
);
CREATE TABLE knit_timestamp (
    knit_id VARCHAR(36) PRIMARY KEY REFERENCES knit_id,
    "timestamp" TIMESTAMPTZ
);
CREATE TABLE tag_data (
    tag_id INT REFERENCES tag,
    knit_id VARCHAR(36) REFERENCES knit_id,
    PRIMARY KEY (tag_id, knit_id)
);
CREATE TABLE data_agent (
    name VARCHAR(253) PRIMARY KEY,
    knit_id VARCHAR(36) NOT NULL,
    mode agent_mode NOT NULL,
    lifecycle_suspend_until TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE garbage (
    knit_id VARCHAR(36) PRIMARY KEY,
    volume_ref VARCHAR(5120) NOT NULL
);
CREATE TABLE nomination (
    knit_id VARCHAR(36),
    input_id INT REFERENCES input,
    updated BOOLEAN NOT NULL DEFAULT true,
    PRIMARY KEY (knit_id, input_id)
);
CREATE TABLE keychain (name VARCHAR(64) PRIMARY KEY);
