-- Sender domains with the state of their DNS, the life of DKIM keys, verified sender addresses, templates.

ALTER TABLE domain
    -- A short name for APIs whose ids are small numbers.
    ADD COLUMN number               integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    ADD COLUMN return_path_host     text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN tracking_host        text COLLATE "C" NOT NULL DEFAULT '',
    -- 0: keys are rotated by hand only.
    ADD COLUMN rotation_days        integer NOT NULL DEFAULT 0 CHECK (rotation_days BETWEEN 0 AND 730),
    -- Its keys sign for verified senders, whose own domains are not here.
    ADD COLUMN signs_for_senders    boolean NOT NULL DEFAULT false CHECK (tenant_id = 'operator' OR NOT signs_for_senders),
    -- Verified by the operator's word, without the challenge.
    ADD COLUMN trusted              boolean NOT NULL DEFAULT false,
    ADD COLUMN verified_at          timestamptz,
    ADD COLUMN updated_at           timestamptz NOT NULL DEFAULT now(),
    -- Rises with each change of what its tenant sets; the etag is made of it.
    ADD COLUMN version              bigint NOT NULL DEFAULT 1,
    -- What the DNS had when it was last looked at, as JSON; NULL: never looked at.
    ADD COLUMN checks               text,
    ADD COLUMN checked_at           timestamptz,
    -- When it is looked at again.
    ADD COLUMN check_due_at         timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN challenge_missing_at timestamptz;
UPDATE domain SET verified_at = created_at WHERE verified;
CREATE INDEX domain_check_due ON domain (check_due_at);
CREATE UNIQUE INDEX domain_signs_for_senders ON domain (signs_for_senders) WHERE signs_for_senders;

ALTER TABLE dkim_key
    ADD COLUMN state        text NOT NULL DEFAULT 'active' CHECK (state IN ('pending', 'active', 'retired')),
    -- Length of an RSA key; 0 for Ed25519.
    ADD COLUMN bits         integer NOT NULL DEFAULT 0,
    ADD COLUMN imported     boolean NOT NULL DEFAULT false,
    -- Made to take the place of the active key of its algorithm.
    ADD COLUMN rotation     boolean NOT NULL DEFAULT false,
    ADD COLUMN created_at   timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN activated_at timestamptz,
    ADD COLUMN retired_at   timestamptz;
UPDATE dkim_key SET activated_at = now(), bits = CASE algorithm WHEN 'rsa' THEN 2048 ELSE 0 END;
ALTER TABLE dkim_key ALTER COLUMN state DROP DEFAULT, ALTER COLUMN bits DROP DEFAULT;
CREATE UNIQUE INDEX dkim_key_active ON dkim_key (tenant_id, domain, algorithm) WHERE state = 'active';
CREATE INDEX dkim_key_retired ON dkim_key (retired_at) WHERE state = 'retired';

-- An address that a tenant may send from without having its domain.
CREATE TABLE sender (
    tenant_id       text COLLATE "C" NOT NULL REFERENCES tenant,
    -- Canonical.
    address         text COLLATE "C" NOT NULL,
    -- What comes after the "@".
    domain          text COLLATE "C" NOT NULL,
    number          integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    display_name    text NOT NULL,
    -- NULL: not proved by itself; while its domain is the tenant's there is no need.
    proof           text CHECK (proof IN ('code', 'trusted')),
    proved_at       timestamptz,
    -- Keyed hash of the code that was mailed last; NULL: there is none that is good.
    code_hash       bytea,
    code_expires_at timestamptz,
    code_sent_at    timestamptz,
    -- Codes that were tried against it.
    attempts        integer NOT NULL DEFAULT 0,
    -- A code is to be mailed at this time or later; NULL: none is.
    mail_due_at     timestamptz,
    mail_tries      integer NOT NULL DEFAULT 0,
    mail_trouble    text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    version         bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, address),
    CHECK ((proof IS NULL) = (proved_at IS NULL))
);
CREATE INDEX sender_mail_due ON sender (mail_due_at) WHERE mail_due_at IS NOT NULL;
CALL protect('sender');

-- One row per code that was asked for: an address gets few a day, whoever asks. Outlives the sender.
CREATE TABLE sender_code (
    tenant_id    text COLLATE "C" NOT NULL REFERENCES tenant,
    address      text COLLATE "C" NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sender_code_by_address ON sender_code (address, requested_at);
CREATE INDEX sender_code_by_tenant ON sender_code (tenant_id, requested_at);
CREATE INDEX sender_code_by_time ON sender_code (requested_at);
CALL protect('sender_code', allowed => 'SELECT, INSERT');

CREATE TABLE template (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenant,
    template_id   text COLLATE "C" NOT NULL CHECK (template_id ~ '^[a-z][a-z0-9-]{0,62}$'),
    number        integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    display_name  text COLLATE "C" NOT NULL,
    subject       text NOT NULL,
    html          text NOT NULL,
    text          text NOT NULL,
    language_code text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    version       bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, template_id)
);
CREATE UNIQUE INDEX template_display_name ON template (tenant_id, display_name);
CALL protect('template');

-- Rules that hold across tenants, and all that a tenant learns of them.

-- Whether a domain is verified for the claimant or a tenant above it.
CREATE FUNCTION domain_is_inherited(wanted text, claimant text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM domain JOIN tenant ON domain.tenant_id = ANY (tenant.path)
                   WHERE domain.domain = wanted COLLATE "C" AND domain.verified
                     AND tenant.tenant_id = claimant COLLATE "C")
$$;

-- Codes that were asked for an address within a day, by anybody, and when the first of them was.
CREATE FUNCTION sender_codes_today(wanted text, OUT number bigint, OUT first_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT count(*), min(requested_at) FROM sender_code
     WHERE address = wanted COLLATE "C" AND requested_at > now() - interval '1 day'
$$;

DO $$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION domain_is_inherited(text, text) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION sender_codes_today(text) SET search_path = %I, pg_temp', current_schema());
END $$;
