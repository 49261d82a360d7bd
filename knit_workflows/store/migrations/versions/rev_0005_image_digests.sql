-- Images may be pinned by digest; empty for those that are not.
ALTER TABLE plan ADD COLUMN image_digest TEXT NOT NULL DEFAULT '';
