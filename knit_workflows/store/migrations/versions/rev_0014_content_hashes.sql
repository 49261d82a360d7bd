-- Programs of before delete Data without a look at this table: so the rows go with them.
CREATE TABLE content_hash (
    knit_id     UUID           NOT NULL,
    tried_at    TIMESTAMPTZ(3) NOT NULL,
    sha256      TEXT,
    size        BIGINT,
    recorded_at TIMESTAMPTZ(3),
    recorded_by TEXT,
    checked_at  TIMESTAMPTZ(3),
    CONSTRAINT pk_content_hash PRIMARY KEY (knit_id),
    CONSTRAINT fk_content_hash_knit_id FOREIGN KEY (knit_id) REFERENCES data ON DELETE CASCADE
);
