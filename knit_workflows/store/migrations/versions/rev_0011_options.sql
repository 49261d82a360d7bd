-- A constant default: no row is touched.
ALTER TABLE plan ADD COLUMN options JSONB NOT NULL DEFAULT '{}';
