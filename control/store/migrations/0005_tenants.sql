-- Kinds of tenants, suspension with its reason, limits, prices and refunds; credits that expire, refunds and write-offs
-- in the ledger, and how many credits each part of the tree has leased in the running hour, day and month.

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenants
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE tenant
    ADD COLUMN kind text NOT NULL DEFAULT 'account' CHECK (kind IN ('operator', 'reseller', 'account')),
    -- A deleted tenant keeps its row, for the ledger and the history name it; its id is not given again.
    ADD COLUMN deleted_at timestamptz,
    -- Of the suspension of this very tenant: why, since when, and the tenant whose credentials did it.
    ADD COLUMN suspended_reason text NOT NULL DEFAULT '',
    ADD COLUMN suspended_at timestamptz,
    ADD COLUMN suspended_by text COLLATE "C",
    -- Limits of its own, which hold for it together with everything below it; NULL: none.
    ADD COLUMN max_hourly bigint CHECK (max_hourly >= 0),
    ADD COLUMN max_daily bigint CHECK (max_daily >= 0),
    ADD COLUMN max_monthly bigint CHECK (max_monthly >= 0),
    ADD COLUMN max_monthly_spend bigint CHECK (max_monthly_spend >= 0),
    ADD COLUMN max_tenants bigint CHECK (max_tenants >= 0),
    -- Limits of a single message.
    ADD COLUMN max_message_bytes bigint CHECK (max_message_bytes > 0),
    ADD COLUMN max_message_recipients bigint CHECK (max_message_recipients > 0),
    -- What 1,000 credits cost, in millionths of the currency; NULL: as the nearest tenant above that has a price.
    ADD COLUMN price_currency text CHECK (price_currency ~ '^[A-Z]{3}$'),
    ADD COLUMN price_micros bigint CHECK (price_micros >= 0),
    -- Outcomes whose credit comes back; NULL: as above, and nothing at the top.
    ADD COLUMN refunds text[] CHECK (refunds <@ '{bounced,expired}'),
    ADD CHECK ((price_currency IS NULL) = (price_micros IS NULL)),
    ADD CHECK ((kind = 'operator') = (parent_id IS NULL)) NOT VALID;
UPDATE tenant SET kind = CASE
    WHEN parent_id IS NULL THEN 'operator'
    WHEN cardinality(path) = 2 OR EXISTS (SELECT FROM tenant AS child WHERE child.parent_id = tenant.tenant_id)
    THEN 'reseller' ELSE 'account' END;
-- For "everything below x".
CREATE INDEX tenant_by_ancestor ON tenant USING gin (path);

-- ---------------------------------------------------------------------------------------------------------------------
-- The ledger
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE ledger_transaction
    DROP CONSTRAINT ledger_transaction_kind_check,
    ADD CHECK (kind IN ('grant', 'transfer', 'lease', 'usage', 'release', 'expire', 'refund', 'write_off')),
    -- Who asked for it; empty: Barua itself.
    ADD COLUMN actor text NOT NULL DEFAULT '',
    -- Taken when the accounts are locked, so that it rises with the postings of a tenant.
    ALTER COLUMN created_at SET DEFAULT clock_timestamp();

ALTER TABLE ledger_posting
    -- When credits of "available" and "reserved" expire; NULL: never.
    ADD COLUMN expire_at timestamptz,
    -- The other tenant of a transfer.
    ADD COLUMN counterparty_id text COLLATE "C",
    ADD CHECK (expire_at IS NULL OR account IN ('available', 'reserved'));

-- The trigger below asks for all postings of a statement at once what the foreign keys asked for each. Nothing they name
-- ever goes: the ledger is append-only, and the row of an account stays when its tenant is deleted.
ALTER TABLE ledger_posting
    DROP CONSTRAINT ledger_posting_transaction_id_fkey,
    DROP CONSTRAINT ledger_posting_tenant_id_fkey;

-- Room in the pages for the new version of a row that changes all the time.
ALTER TABLE account SET (fillfactor = 50);
ALTER TABLE request_log SET (fillfactor = 60);

ALTER TABLE account
    -- The part of "available" that expires at some time: nothing of credit_lot need be read while it is 0.
    ADD COLUMN expiring bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT account_expiring CHECK (expiring BETWEEN 0 AND available),
    -- The tenant was deleted: nothing moves here any more.
    ADD COLUMN closed boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT account_closed CHECK (NOT closed OR (available = 0 AND reserved = 0));

-- A tenant's credits by the time they expire: sums of postings, kept by the trigger below and by nothing else.
CREATE TABLE credit_lot (
    tenant_id text COLLATE "C" NOT NULL REFERENCES tenant,
    expire_at timestamptz NOT NULL,
    available bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
    reserved  bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    PRIMARY KEY (tenant_id, expire_at)
);
CREATE INDEX credit_lot_due ON credit_lot (expire_at) WHERE available > 0;
CALL protect('credit_lot', allowed => 'SELECT');

CREATE OR REPLACE FUNCTION ledger_apply() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    unbalanced boolean;
    headless boolean;
    expires boolean;
    tenants bigint;
    changed bigint;
BEGIN
    -- All postings of a transaction come in one statement, so this sees them whole.
    SELECT bool_or(total <> 0), bool_or(NOT has_head), bool_or(has_expiry),
           (SELECT count(DISTINCT tenant_id) FROM posted)
      INTO unbalanced, headless, expires, tenants
      FROM (SELECT sum(amount) AS total, bool_or(expire_at IS NOT NULL) AS has_expiry,
                   -- Not EXISTS, which may read the whole table for a hash of it.
                   (SELECT true FROM ledger_transaction AS head WHERE head.transaction_id = posted.transaction_id)
                       IS NOT NULL AS has_head
              FROM posted
             GROUP BY transaction_id) AS checked;
    IF unbalanced THEN
        RAISE EXCEPTION 'the postings of a ledger transaction do not sum to zero';
    ELSIF headless THEN
        RAISE EXCEPTION 'a posting names no ledger transaction';
    END IF;
    UPDATE account
       SET available = account.available + change.available,
           reserved = account.reserved + change.reserved,
           consumed = account.consumed + change.consumed,
           expiring = account.expiring + change.expiring
      FROM (SELECT tenant_id,
                   coalesce(sum(amount) FILTER (WHERE account = 'available'), 0)::bigint AS available,
                   coalesce(sum(amount) FILTER (WHERE account = 'reserved'), 0)::bigint AS reserved,
                   coalesce(sum(amount) FILTER (WHERE account = 'consumed'), 0)::bigint AS consumed,
                   coalesce(sum(amount) FILTER (WHERE account = 'available' AND expire_at IS NOT NULL), 0)::bigint
                       AS expiring
              FROM posted
             WHERE tenant_id IS NOT NULL
             GROUP BY tenant_id) AS change
     WHERE account.tenant_id = change.tenant_id;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed <> tenants THEN
        RAISE EXCEPTION 'a posting names a tenant without an account';
    END IF;
    IF expires THEN
        INSERT INTO credit_lot (tenant_id, expire_at)
        SELECT DISTINCT tenant_id, expire_at FROM posted WHERE expire_at IS NOT NULL
            ON CONFLICT DO NOTHING;
        UPDATE credit_lot
           SET available = credit_lot.available + change.available,
               reserved = credit_lot.reserved + change.reserved
          FROM (SELECT tenant_id, expire_at,
                       coalesce(sum(amount) FILTER (WHERE account = 'available'), 0)::bigint AS available,
                       coalesce(sum(amount) FILTER (WHERE account = 'reserved'), 0)::bigint AS reserved
                  FROM posted
                 WHERE expire_at IS NOT NULL
                 GROUP BY tenant_id, expire_at) AS change
         WHERE credit_lot.tenant_id = change.tenant_id AND credit_lot.expire_at = change.expire_at;
    END IF;
    RETURN NULL;
END $$;
-- Replacing a function takes its attributes away.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION ledger_apply() SECURITY DEFINER SET search_path = %I, pg_temp', current_schema());
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Leases
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE lease
    -- What the lease is made of, in the order in which it is spent: so many credits that expire then; what is left of
    -- the amount never expires.
    ADD COLUMN expire_at timestamptz[] NOT NULL DEFAULT '{}',
    ADD COLUMN expiring bigint[] NOT NULL DEFAULT '{}',
    -- Some of it expired while it was out, and it was called back for that.
    ADD COLUMN expiry_recalled boolean NOT NULL DEFAULT false,
    -- Closed without word from its holder: what that one's journal still tells of so many credits moves nothing.
    ADD COLUMN unheard bigint NOT NULL DEFAULT 0 CHECK (unheard >= 0),
    -- It was closed in that way and its tenant got the credits back: there is nothing to refund of it.
    ADD COLUMN given_back boolean NOT NULL DEFAULT false,
    ADD CHECK (cardinality(expire_at) = cardinality(expiring));
CREATE INDEX lease_expiring ON lease ((expire_at[1]))
    WHERE spent + returned < amount AND cardinality(expire_at) > 0 AND NOT expiry_recalled;

ALTER TABLE holder
    -- Its spool is lost: it gets no leases any more.
    ADD COLUMN written_off_at timestamptz;

-- Credits that a tenant and those below it leased in the running hour, day and month (UTC) and did not give back. The
-- root has no row: nothing limits it.
CREATE TABLE lease_count (
    tenant_id     text COLLATE "C" PRIMARY KEY REFERENCES tenant,
    hour_start    timestamptz NOT NULL DEFAULT '-infinity',
    hour_credits  bigint NOT NULL DEFAULT 0 CHECK (hour_credits >= 0),
    day_start     timestamptz NOT NULL DEFAULT '-infinity',
    day_credits   bigint NOT NULL DEFAULT 0 CHECK (day_credits >= 0),
    month_start   timestamptz NOT NULL DEFAULT '-infinity',
    month_credits bigint NOT NULL DEFAULT 0 CHECK (month_credits >= 0)
) WITH (fillfactor = 50);
INSERT INTO lease_count (tenant_id) SELECT tenant_id FROM tenant WHERE parent_id IS NOT NULL;
CALL protect('lease_count', allowed => 'SELECT');

-- Recipients whose credit came back: once each.
CREATE TABLE refund (
    recipient_id bigint PRIMARY KEY,
    tenant_id    text COLLATE "C" NOT NULL REFERENCES tenant,
    credits      bigint NOT NULL CHECK (credits > 0),
    created_at   timestamptz NOT NULL DEFAULT now()
);
CALL protect('refund', allowed => 'SELECT');
