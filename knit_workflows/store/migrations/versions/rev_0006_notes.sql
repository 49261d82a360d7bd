-- Both are mostly absent, so no row need be touched.
ALTER TABLE run ADD COLUMN notes TEXT[];
ALTER TABLE admission ADD COLUMN held TEXT;
