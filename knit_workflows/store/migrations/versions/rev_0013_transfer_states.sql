-- What the row of a transfer stands for; a constant default: no row is rewritten.
ALTER TABLE transfer ADD COLUMN state TEXT NOT NULL DEFAULT 'opening';

UPDATE transfer
   SET state = CASE WHEN endpoint IN ('idle', 'closing') THEN endpoint ELSE 'open' END
 WHERE endpoint <> '';

ALTER TABLE transfer ADD CONSTRAINT ck_transfer_state
CHECK (state IN ('opening', 'open', 'idle', 'closing'));

-- Programs of before go on writing both into endpoint alone until they are replaced.
CREATE FUNCTION state_of_endpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state := CASE WHEN NEW.endpoint = '' THEN 'opening'
                      WHEN NEW.endpoint IN ('idle', 'closing') THEN NEW.endpoint
                      ELSE 'open' END;
    RETURN NEW;
END
$$;
CREATE TRIGGER transfer_state_of_endpoint BEFORE UPDATE OF endpoint ON transfer
FOR EACH ROW WHEN (OLD.endpoint <> NEW.endpoint AND OLD.state = NEW.state)
EXECUTE FUNCTION state_of_endpoint();
