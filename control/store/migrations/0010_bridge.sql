-- What the JSON APIs ask of the control plane: small numbers for everything that is listed, searches, keys that can be
-- read again, and tenants whose mail is paid by one above.

-- Numbers, below 2^31, never given twice, for clients whose ids are such.
ALTER TABLE tenant ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY UNIQUE;
ALTER TABLE api_key ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY UNIQUE;
ALTER TABLE oauth_client ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY UNIQUE;
ALTER TABLE list_validation ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY UNIQUE;
ALTER TABLE alert_rule ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY UNIQUE;

-- The text that searches compare: without case. Which collations there are depends on how the server was built; the
-- database's own may know no letters but those of ASCII.
DO $$
DECLARE
    chosen text := (SELECT quote_ident(collname) FROM pg_collation
                     WHERE collname IN ('pg_c_utf8', 'und-x-icu', 'C.utf8', 'C.UTF-8')
                     ORDER BY array_position(ARRAY['pg_c_utf8', 'und-x-icu', 'C.utf8', 'C.UTF-8'], collname::text)
                     LIMIT 1);
BEGIN
    EXECUTE format(
        'CREATE FUNCTION folded(kept text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE'
        ' RETURN lower(kept COLLATE %s) COLLATE "C"', coalesce('pg_catalog.' || chosen, '"default"'));
END $$;

-- The secret of a key that can be read again, under AES-256-GCM; NULL: only its hash is kept.
ALTER TABLE api_key ADD COLUMN sealed_secret bytea;

-- Who pays: a tenant that shares has no credits of its own; the nearest tenant above that does not share pays for its
-- mail. The root never shares.
ALTER TABLE tenant
    ADD COLUMN shares_balance boolean NOT NULL DEFAULT false,
    ADD CHECK (NOT (shares_balance AND parent_id IS NULL));
ALTER TABLE account
    -- The same, where the ledger sees it under the account's lock.
    ADD COLUMN shared boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT account_shared CHECK (NOT shared OR (available = 0 AND reserved = 0));
ALTER TABLE lease ADD COLUMN payer_id text COLLATE "C";
UPDATE lease SET payer_id = tenant_id;
ALTER TABLE lease ALTER COLUMN payer_id SET NOT NULL, ADD FOREIGN KEY (payer_id) REFERENCES tenant;
CREATE INDEX lease_open_by_payer ON lease (payer_id) WHERE spent + returned < amount;
