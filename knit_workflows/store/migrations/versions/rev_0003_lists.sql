-- Others work with the database meanwhile: what takes long is done first, under locks that stop
-- writers alone; those that stop readers come last. Writers are stopped, since what they write
-- between the copy and its taking over would be lost. They are stopped before they lock a row, and
-- `tag` too: what those who wait for us hold already, we would wait for at the end.
LOCK TABLE tag, run, data, data_tag IN EXCLUSIVE MODE;

-- Every list of Runs is a merge of ranges, one per status (and Plan).
CREATE INDEX ix_run_status ON run (status, updated_at, run_id);
CREATE INDEX ix_run_plan ON run (plan_id, status, updated_at, run_id);

-- The time of a Data is kept with its tags too: so those of a tag, by time, are a range.
-- Written anew: to update every row of a large table takes ten times as long.
CREATE TABLE stamped AS
SELECT data_tag.tag_id, data_tag.knit_id, data.timestamp
  FROM data_tag
  JOIN data USING (knit_id)
 ORDER BY data_tag.tag_id, data_tag.knit_id;
ALTER TABLE stamped
    ALTER COLUMN tag_id SET NOT NULL,
    ALTER COLUMN knit_id SET NOT NULL,
    ADD CONSTRAINT pk_stamped PRIMARY KEY (tag_id, knit_id),
    ADD CONSTRAINT fk_data_tag_tag_id FOREIGN KEY(tag_id) REFERENCES tag (tag_id),
    ADD CONSTRAINT fk_data_tag_knit_id FOREIGN KEY(knit_id) REFERENCES data (knit_id);
CREATE INDEX ix_stamped_data ON stamped (knit_id, tag_id);
CREATE INDEX ix_data_tag_time ON stamped (tag_id, timestamp, knit_id);

-- A trigger, because its statement begins after the Data's row is locked: a tag that came while
-- the end of a Run waited for that lock is stamped too, which a part of the statement that ends
-- the Run could not see.
CREATE FUNCTION stamp_data_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE data_tag SET timestamp = NEW.timestamp WHERE knit_id = NEW.knit_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER data_stamped
    AFTER UPDATE OF timestamp ON data
    FOR EACH ROW WHEN (NEW.timestamp IS DISTINCT FROM OLD.timestamp)
    EXECUTE FUNCTION stamp_data_tags();

-- From here on readers wait, for some milliseconds.
DROP TABLE data_tag;
ALTER TABLE stamped RENAME TO data_tag;
ALTER INDEX pk_stamped RENAME TO pk_data_tag;
ALTER INDEX ix_stamped_data RENAME TO ix_data_tag_data;
DROP INDEX ix_run_updated;
