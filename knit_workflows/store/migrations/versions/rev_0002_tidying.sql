ALTER TABLE plan ADD COLUMN priority INTEGER DEFAULT 0 NOT NULL;

CREATE TABLE discarded (
    knit_id UUID NOT NULL,
    volume TEXT NOT NULL,
    at TIMESTAMP(3) WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_discarded PRIMARY KEY (knit_id)
);

CREATE INDEX ix_discarded_at ON discarded (at, knit_id);

CREATE TABLE admission (
    singleton BOOLEAN DEFAULT true NOT NULL,
    total INTEGER NOT NULL,
    per_plan INTEGER,
    CONSTRAINT pk_admission PRIMARY KEY (singleton),
    CONSTRAINT ck_admission_singleton CHECK (singleton)
);

-- The queue is read Plan by Plan.
DROP INDEX ix_run_queue;
