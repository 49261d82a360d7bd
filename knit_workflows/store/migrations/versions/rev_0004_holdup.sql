-- What keeps a Run from starting; there is none while it is well, so old rows need not be touched.
ALTER TABLE run ADD COLUMN holdup JSONB;
