-- With what a Run was launched, beside used_resources; a constant default: no row is touched.
ALTER TABLE run ADD COLUMN used_options JSONB NOT NULL DEFAULT '{}';

-- The same of each launch, which a retry does not forget.
ALTER TABLE run_event ADD COLUMN used JSONB;
