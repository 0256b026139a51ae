-- Suppressions: for one stream or all, with evidence and an end; what leads to them by itself; and the validation of
-- lists of addresses.

-- ---------------------------------------------------------------------------------------------------------------------
-- Suppressions
-- ---------------------------------------------------------------------------------------------------------------------

-- A small number for clients that know nothing of names. Taken for new rows only, so that imports that are repeated do
-- not use it up.
CREATE SEQUENCE suppression_number;
GRANT USAGE ON SEQUENCE suppression_number TO barua_app;

ALTER TABLE suppression
    DROP CONSTRAINT suppression_reason_check,
    DROP CONSTRAINT suppression_pkey,
    ADD CHECK (reason IN ('manual', 'unsubscribe', 'hard_bounce', 'complaint', 'invalid', 'soft_bounce')),
    -- The stream it is for; empty: all of them.
    ADD COLUMN stream text COLLATE "C" NOT NULL DEFAULT '' CHECK (stream ~ '^([a-z0-9][a-z0-9._-]{0,62})?$'),
    -- Stored, because row-level security keeps conditions with functions from using an index.
    ADD COLUMN domain text COLLATE "C" NOT NULL GENERATED ALWAYS AS (split_part(address, '@', -1)) STORED,
    -- What proves it, such as the remote's reply, and the recipient's copy of the message it is about; 0: none.
    ADD COLUMN evidence text NOT NULL DEFAULT '',
    ADD COLUMN source_message_id bigint NOT NULL DEFAULT 0 CHECK (source_message_id >= 0),
    -- From then on it counts as gone, wherever it is looked at; housekeeping removes the row.
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
    -- Whose credentials made it; "control" for what follows from events.
    ADD COLUMN created_by text NOT NULL DEFAULT '',
    -- Rises with each write; the etag is made of it.
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN number bigint NOT NULL DEFAULT nextval('suppression_number'),
    ADD PRIMARY KEY (tenant_id, address, stream);
ALTER SEQUENCE suppression_number OWNED BY suppression.number;
CREATE INDEX suppression_by_time ON suppression (tenant_id, created_at, number);
CREATE INDEX suppression_by_domain ON suppression (tenant_id, domain, address, stream);
CREATE INDEX suppression_expiring ON suppression (expires_at) WHERE expires_at IS NOT NULL;

-- What becomes a suppression by itself; NULL: as the nearest tenant above says, and at the top as the options say.
CREATE TABLE suppression_policy (
    tenant_id          text COLLATE "C" PRIMARY KEY REFERENCES tenant,
    hard_bounces       boolean,
    soft_bounces       boolean,
    soft_bounce_count  integer CHECK (soft_bounce_count BETWEEN 1 AND 100),
    soft_bounce_days   integer CHECK (soft_bounce_days BETWEEN 1 AND 30),
    first_pause_days   integer CHECK (first_pause_days BETWEEN 1 AND 365),
    pause_count        integer CHECK (pause_count BETWEEN 0 AND 10),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    version            bigint NOT NULL DEFAULT 1
);
CALL protect('suppression_policy');

-- Recipients that soft-bounced since mail last got through to them.
CREATE TABLE bounce_ladder (
    tenant_id  text COLLATE "C" NOT NULL,
    address    text COLLATE "C" NOT NULL,
    -- Soft bounces since the last pause, on so many different days (UTC), the newest of which is last_day.
    bounces    integer NOT NULL CHECK (bounces >= 0),
    days       integer NOT NULL CHECK (days >= 0),
    last_day   date NOT NULL,
    -- Temporary suppressions so far.
    pauses     integer NOT NULL DEFAULT 0 CHECK (pauses >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, address)
) WITH (fillfactor = 85);
CREATE INDEX bounce_ladder_by_time ON bounce_ladder (updated_at);
CALL protect('bounce_ladder', allowed => 'SELECT, DELETE');

-- ---------------------------------------------------------------------------------------------------------------------
-- List validation
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE list_validation (
    validation_id text COLLATE "C" NOT NULL,
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenant,
    display_name  text NOT NULL,
    stream        text COLLATE "C" NOT NULL DEFAULT '',
    -- 1 receiving, 2 queued, 3 running, 4 done, 5 cancelled; the numbers of barua.control.v1.ListValidation.State.
    state         smallint NOT NULL CHECK (state BETWEEN 1 AND 5),
    address_count bigint NOT NULL DEFAULT 0,
    checked_count bigint NOT NULL DEFAULT 0,
    -- How many have the verdict 1, 2, 3, 4; the numbers of barua.control.v1.Verdict.
    verdicts      bigint[] NOT NULL DEFAULT '{0,0,0,0}',
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    -- A control program works on it until then.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant_id, validation_id)
);
CREATE INDEX list_validation_open ON list_validation (created_at) WHERE state IN (1, 2, 3);
CREATE INDEX list_validation_finished ON list_validation (finished_at) WHERE finished_at IS NOT NULL;
CALL protect('list_validation');

CREATE TABLE list_validation_line (
    tenant_id     text COLLATE "C" NOT NULL,
    validation_id text COLLATE "C" NOT NULL,
    -- From 1, in the order of the list.
    line          bigint NOT NULL,
    address       text NOT NULL,
    -- NULL: not checked yet.
    verdict       smallint,
    -- What AddressValidation says, as a proto.
    result        bytea,
    PRIMARY KEY (tenant_id, validation_id, line),
    FOREIGN KEY (tenant_id, validation_id) REFERENCES list_validation ON DELETE CASCADE
);
CREATE INDEX list_validation_line_by_verdict ON list_validation_line (tenant_id, validation_id, verdict, line)
    WHERE verdict IS NOT NULL;
CALL protect('list_validation_line');
