-- Pools of tenants, made of sources that the operator allots to them; and where answers to a sender should go.
--
-- Transactions for tenants have no business here, as in 0008: PoolService asks as the owner, for the rows of a tenant
-- that it has looked up for its caller before. The columns are not called tenant_id, since no policy protects them.

ALTER TABLE source
    -- Small, for APIs whose ids are numbers of 32 bits.
    ADD number integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- This tenant and those below may have it in their pools; the root: all may; NULL: none.
    ADD allotted_to text COLLATE "C" REFERENCES tenant,
    -- That tenant has given it up for now.
    ADD released boolean NOT NULL DEFAULT false,
    ADD auto_warm_up boolean NOT NULL DEFAULT false,
    ADD CHECK (NOT released OR allotted_to IS NOT NULL);
CREATE INDEX source_by_tenant ON source (allotted_to, number) WHERE allotted_to IS NOT NULL;

ALTER TABLE pool
    ADD number integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- The tenant that made it; NULL: the operator.
    ADD owner text COLLATE "C" REFERENCES tenant,
    -- What messages call it, case folded by Python.
    ADD folded_name text COLLATE "C",
    ADD routing_strategy text NOT NULL DEFAULT 'round_robin'
        CHECK (routing_strategy IN ('round_robin', 'recipient_provider', 'volume_share', 'sender_domain')),
    ADD routing_metadata text NOT NULL DEFAULT '{}',
    -- What its sources may not send now goes out from overflow_pool_id.
    ADD overflow boolean NOT NULL DEFAULT false,
    ADD overflow_pool_id text COLLATE "C" REFERENCES pool,
    ADD CHECK ((owner IS NULL) = (folded_name IS NULL)),
    ADD CHECK (NOT overflow OR overflow_pool_id IS NOT NULL),
    ADD CHECK (overflow_pool_id <> pool_id),
    ADD UNIQUE (owner, folded_name);

-- Where answers to messages of a sender should go, for programs that write them.
ALTER TABLE sender ADD reply_to text NOT NULL DEFAULT '';

-- What is done about these tables when a tenant is deleted, which may be on behalf of a tenant above it: its pools go,
-- and its sources are the operator's again. Gives the ids of the pools.
CREATE FUNCTION remove_egress_of(gone text) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('barua.tenant', true) <> ''
        AND NOT EXISTS (SELECT FROM tenant WHERE tenant.tenant_id = gone COLLATE "C"
                        AND current_setting('barua.tenant', true) = ANY (tenant.path)) THEN
        RETURN;
    END IF;
    UPDATE source SET allotted_to = NULL, released = false, version = version + 1 WHERE allotted_to = gone COLLATE "C";
    UPDATE pool SET overflow = false, overflow_pool_id = NULL WHERE owner = gone COLLATE "C";
    RETURN QUERY DELETE FROM pool WHERE owner = gone COLLATE "C" RETURNING pool_id;
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION remove_egress_of(text) SET search_path = %I, pg_temp', current_schema());
END $$;
