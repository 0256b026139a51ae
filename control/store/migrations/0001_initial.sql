-- Everything control remembers. Times are timestamptz, amounts are whole credits in bigint, keys compare as bytes
-- (COLLATE "C") so that pages come in the same order on every server.

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenants and what belongs to them
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE tenant (
    tenant_id      text COLLATE "C" PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    parent_id      text COLLATE "C" REFERENCES tenant,
    -- Ids from the root down to this tenant, both included. Tenants never move, so it never changes; "a is above or
    -- equal to b" is "a = ANY (b.path)".
    path           text[] COLLATE "C" NOT NULL CHECK (cardinality(path) BETWEEN 1 AND 16),
    display_name   text NOT NULL,
    first_name     text NOT NULL,
    surname        text NOT NULL,
    organization   text NOT NULL,
    phone          text NOT NULL,
    suspended      boolean NOT NULL DEFAULT false,
    default_sender text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    -- Rises with each write; the etag is made of it.
    version        bigint NOT NULL DEFAULT 1,
    CHECK (path[cardinality(path)] = tenant_id),
    CHECK ((parent_id IS NULL) = (cardinality(path) = 1))
);
CREATE INDEX tenant_by_parent ON tenant (parent_id, tenant_id);
-- There is one root.
CREATE UNIQUE INDEX tenant_root ON tenant ((parent_id IS NULL)) WHERE parent_id IS NULL;

CREATE TABLE login (
    username      text COLLATE "C" PRIMARY KEY,
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenant,
    -- argon2id in PHC string form.
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX login_by_tenant ON login (tenant_id, username);

CREATE TABLE api_key (
    key_id        text COLLATE "C" PRIMARY KEY,
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenant,
    display_name  text NOT NULL,
    scopes        text[] NOT NULL,
    secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
    last_four     text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX api_key_by_tenant ON api_key (tenant_id, key_id);

-- A claim of a domain. Any tenant may claim; whoever proves it first has it.
CREATE TABLE domain (
    domain      text COLLATE "C" NOT NULL,
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenant,
    verified    boolean NOT NULL,
    signing_off boolean NOT NULL,
    -- What the challenge record must contain.
    challenge   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, domain)
);
CREATE UNIQUE INDEX domain_verified ON domain (domain) WHERE verified;

CREATE TABLE dkim_key (
    tenant_id          text COLLATE "C" NOT NULL,
    domain             text COLLATE "C" NOT NULL,
    selector           text COLLATE "C" NOT NULL,
    algorithm          text NOT NULL CHECK (algorithm IN ('rsa', 'ed25519')),
    -- As published in "p=" (RFC 6376 §3.6.1, RFC 8463 §4).
    public_key         bytea NOT NULL,
    -- PKCS #8 under AES-256-GCM; only workers open it.
    sealed_private_key bytea NOT NULL,
    PRIMARY KEY (tenant_id, domain, selector),
    FOREIGN KEY (tenant_id, domain) REFERENCES domain ON DELETE CASCADE
);

CREATE TABLE suppression (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenant,
    address    text COLLATE "C" NOT NULL,
    reason     text NOT NULL CHECK (reason IN ('manual', 'unsubscribe', 'hard_bounce', 'complaint')),
    note       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, address)
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Credits: a double-entry, append-only ledger with cached balances
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE ledger_transaction (
    transaction_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('grant', 'transfer', 'lease', 'usage', 'release')),
    note           text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ledger_posting (
    posting_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL REFERENCES ledger_transaction,
    -- NULL for the issuance account, which stands for the world outside and may be negative.
    tenant_id      text COLLATE "C" REFERENCES tenant,
    account        text NOT NULL CHECK (account IN ('available', 'reserved', 'consumed', 'issuance')),
    amount         bigint NOT NULL CHECK (amount <> 0),
    -- The lease it is about, if any.
    lease_id       bigint,
    CHECK ((account = 'issuance') = (tenant_id IS NULL))
);
CREATE INDEX ledger_posting_by_tenant ON ledger_posting (tenant_id, posting_id DESC);
CREATE INDEX ledger_posting_by_transaction ON ledger_posting (transaction_id);

-- The sums of a tenant's postings, kept by the trigger below and by nothing else, and whether they may be leased.
CREATE TABLE account (
    tenant_id text COLLATE "C" PRIMARY KEY REFERENCES tenant,
    available bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
    reserved  bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    consumed  bigint NOT NULL DEFAULT 0 CHECK (consumed >= 0),
    -- No lease is granted before: a transfer waits for leases to come back.
    held_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Far from the end of bigint, so that no sum can overflow.
    CONSTRAINT account_within_bounds CHECK (available::numeric + reserved + consumed <= 1000000000000000000)
);

CREATE FUNCTION ledger_apply() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- All postings of a transaction come in one statement, so this sees them whole.
    IF EXISTS (SELECT FROM posted GROUP BY transaction_id HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'the postings of a ledger transaction do not sum to zero';
    END IF;
    UPDATE account
       SET available = account.available + change.available,
           reserved = account.reserved + change.reserved,
           consumed = account.consumed + change.consumed
      FROM (SELECT tenant_id,
                   coalesce(sum(amount) FILTER (WHERE account = 'available'), 0)::bigint AS available,
                   coalesce(sum(amount) FILTER (WHERE account = 'reserved'), 0)::bigint AS reserved,
                   coalesce(sum(amount) FILTER (WHERE account = 'consumed'), 0)::bigint AS consumed
              FROM posted
             WHERE tenant_id IS NOT NULL
             GROUP BY tenant_id) AS change
     WHERE account.tenant_id = change.tenant_id;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_posting_apply AFTER INSERT ON ledger_posting
    REFERENCING NEW TABLE AS posted FOR EACH STATEMENT EXECUTE FUNCTION ledger_apply();

CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only';
END $$;

CREATE TRIGGER ledger_posting_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_posting
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_transaction_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- Holders (spools), their leases, and what their journals told
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE holder (
    holder_id         uuid PRIMARY KEY,
    -- Short name of it in delivery_event.
    number            integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- Run of the holder that may acquire leases; 0: it has not introduced itself.
    epoch             bigint NOT NULL DEFAULT 0,
    -- Everything in its outbox up to here is in this database.
    recorded_sequence bigint NOT NULL DEFAULT 0,
    -- The node that pushed last.
    node              text NOT NULL DEFAULT ''
);

CREATE TABLE lease (
    lease_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder_id  uuid NOT NULL REFERENCES holder,
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenant,
    epoch      bigint NOT NULL,
    request_id uuid NOT NULL,
    amount     bigint NOT NULL CHECK (amount > 0),
    spent      bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    returned   bigint NOT NULL DEFAULT 0 CHECK (returned >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The rest, amount - spent - returned, is what the holder may still have; none left: the lease is closed.
    CHECK (spent + returned <= amount),
    UNIQUE (holder_id, request_id)
);
CREATE INDEX lease_open_by_holder ON lease (holder_id) WHERE spent + returned < amount;
CREATE INDEX lease_open_by_tenant ON lease (tenant_id) WHERE spent + returned < amount;

-- One row per recipient of a message. No foreign keys: it is written in bulk, by trusted nodes.
CREATE TABLE message_record (
    recipient_id bigint PRIMARY KEY,
    tenant_id    text COLLATE "C" NOT NULL,
    message_id   bigint NOT NULL,
    sender       text NOT NULL,
    recipient    text NOT NULL,
    subject      text NOT NULL,
    source       text NOT NULL,
    size_bytes   bigint NOT NULL,
    -- 1 queued, 2 delivered, 3 bounced.
    state        smallint NOT NULL CHECK (state BETWEEN 1 AND 3),
    last_reply   text NOT NULL,
    received_at  timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
) WITH (fillfactor = 85);
-- Ids rise with time, so these give the newest first.
CREATE INDEX message_record_by_tenant ON message_record (tenant_id, recipient_id DESC);
CREATE INDEX message_record_by_recipient
    ON message_record (tenant_id, lower(recipient COLLATE "C"), recipient_id DESC);

-- What happened to recipients, as told by the journal. What only RECEIVED carries is in message_record.
CREATE TABLE delivery_event (
    recipient_id    bigint NOT NULL,
    holder_number   integer NOT NULL,
    sequence        bigint NOT NULL,
    -- The number of barua.journal.v1.Event.Kind.
    kind            smallint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    attempt         integer NOT NULL,
    code            integer NOT NULL,
    enhanced_code   text NOT NULL,
    reply           text NOT NULL,
    remote_host     text NOT NULL,
    next_attempt_at timestamptz,
    lease_id        bigint NOT NULL,
    credits         bigint NOT NULL,
    PRIMARY KEY (recipient_id, holder_number, sequence)
);

-- ---------------------------------------------------------------------------------------------------------------------
-- The policy stream, requests, nodes
-- ---------------------------------------------------------------------------------------------------------------------

-- One row. Every change takes its revision here, so revisions become visible in their order: the row stays locked
-- until the change commits. A sequence could not promise that.
CREATE TABLE policy_head (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Name of this history of revisions.
    lineage          uuid NOT NULL DEFAULT gen_random_uuid(),
    revision         bigint NOT NULL DEFAULT 0,
    -- Changes up to here are no longer in policy_change.
    trimmed_revision bigint NOT NULL DEFAULT 0
);
INSERT INTO policy_head DEFAULT VALUES;

-- Which record changed, not how: a reader looks the record up, and an absent one is gone.
CREATE TABLE policy_change (
    revision bigint PRIMARY KEY,
    kind     text NOT NULL CHECK (kind IN ('tenant', 'login', 'api_key', 'domain', 'suppression')),
    -- The tenant for a suppression, whose key is (tenant, address); else empty.
    scope    text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL
);

-- Answers to requests that carried a request id, so that a retry gets the earlier answer.
CREATE TABLE request_log (
    tenant_id   text COLLATE "C" NOT NULL,
    method      text NOT NULL,
    request_id  uuid NOT NULL,
    -- Keyed hash of the body, which may hold a password.
    fingerprint bytea NOT NULL,
    answer      bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, method, request_id)
);
CREATE INDEX request_log_by_time ON request_log (created_at);

CREATE TABLE node (
    name        text COLLATE "C" PRIMARY KEY,
    -- Revision in force there, as it said last.
    revision    bigint NOT NULL,
    reported_at timestamptz NOT NULL
);

-- The root of the tree. It is change number one of the policy stream.
INSERT INTO tenant (tenant_id, path, display_name, first_name, surname, organization, phone, default_sender)
    VALUES ('operator', '{operator}', 'Operator', '', '', '', '', '');
INSERT INTO account (tenant_id) VALUES ('operator');
UPDATE policy_head SET revision = 1;
INSERT INTO policy_change (revision, kind, scope, key) VALUES (1, 'tenant', '', 'operator');
