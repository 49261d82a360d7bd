-- Volumes that wait for uploads, each with a transfer pod; an upload takes one by deleting its row.
CREATE TABLE warm_volume (
    volume TEXT NOT NULL,
    knit_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    token TEXT NOT NULL,
    state TEXT NOT NULL,
    keeper TEXT NOT NULL,
    until TIMESTAMPTZ(3) NOT NULL,
    created_at TIMESTAMPTZ(3) NOT NULL,
    CONSTRAINT pk_warm_volume PRIMARY KEY (volume),
    CONSTRAINT ck_warm_volume_state CHECK (state IN ('making', 'ready', 'ending'))
);
