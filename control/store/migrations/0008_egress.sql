-- Ways out: SMTP providers of tenants; sources, pools and rules of the operator.

-- ---------------------------------------------------------------------------------------------------------------------
-- SMTP providers
-- ---------------------------------------------------------------------------------------------------------------------

-- Every tenant has a provider `builtin`, the MTA itself; its row is made when it is changed for the first time.
CREATE TABLE smtp_provider (
    tenant_id                 text COLLATE "C" NOT NULL REFERENCES tenant,
    provider_id               text COLLATE "C" NOT NULL CHECK (provider_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    display_name              text NOT NULL DEFAULT '',
    host                      text NOT NULL DEFAULT '',
    port                      integer NOT NULL DEFAULT 0 CHECK (port BETWEEN 0 AND 65535),
    tls                       text NOT NULL DEFAULT 'starttls_required'
                              CHECK (tls IN ('implicit', 'starttls_required', 'starttls_if_offered', 'none')),
    username                  text NOT NULL DEFAULT '',
    -- Under AES-256-GCM; NULL: no AUTH.
    sealed_password           bytea,
    -- Recipients per clock hour and calendar day (UTC); 0: no limit.
    hourly_limit              bigint NOT NULL DEFAULT 0 CHECK (hourly_limit >= 0),
    daily_limit               bigint NOT NULL DEFAULT 0 CHECK (daily_limit >= 0),
    -- What is over a limit waits; otherwise it is refused.
    waits                     boolean NOT NULL DEFAULT false,
    shared                    boolean NOT NULL DEFAULT false,
    allow_private_addresses   boolean NOT NULL DEFAULT false,
    allow_invalid_certificate boolean NOT NULL DEFAULT false,
    is_default                boolean NOT NULL DEFAULT false,
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now(),
    -- Rises with each write; the etag is made of it.
    version                   bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, provider_id),
    CHECK ((username = '') = (sealed_password IS NULL)),
    CHECK ((provider_id = 'builtin') = (host = ''))
);
-- A tenant has one default of its own at most.
CREATE UNIQUE INDEX smtp_provider_default ON smtp_provider (tenant_id) WHERE is_default;
CALL protect('smtp_provider');

-- What workers have taken of the limits. One row, whose window moves on: history keeps the past.
CREATE TABLE smtp_provider_usage (
    tenant_id   text COLLATE "C" NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    hour        timestamptz NOT NULL,
    hour_count  bigint NOT NULL CHECK (hour_count >= 0),
    day         date NOT NULL,
    day_count   bigint NOT NULL CHECK (day_count >= 0),
    PRIMARY KEY (tenant_id, provider_id),
    FOREIGN KEY (tenant_id, provider_id) REFERENCES smtp_provider ON DELETE CASCADE
);
CALL protect('smtp_provider_usage');

-- ---------------------------------------------------------------------------------------------------------------------
-- Sources, pools, rules: the operator's
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE source (
    source_id      text COLLATE "C" PRIMARY KEY CHECK (source_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    address        inet NOT NULL UNIQUE CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    ehlo_name      text NOT NULL,
    state          text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'disabled')),
    -- First day of the warm-up and the limit of each day; afterwards daily_limit holds, 0: no limit.
    warm_up_start  date,
    warm_up_limits bigint[] NOT NULL DEFAULT '{}',
    daily_limit    bigint NOT NULL DEFAULT 0 CHECK (daily_limit >= 0),
    note           text NOT NULL DEFAULT '',
    usage_day      date NOT NULL DEFAULT '-infinity',
    usage_count    bigint NOT NULL DEFAULT 0 CHECK (usage_count >= 0),
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    version        bigint NOT NULL DEFAULT 1,
    CHECK ((warm_up_start IS NULL) = (cardinality(warm_up_limits) = 0))
);

CREATE TABLE pool (
    pool_id      text COLLATE "C" PRIMARY KEY CHECK (pool_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    display_name text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    version      bigint NOT NULL DEFAULT 1
);

CREATE TABLE pool_member (
    pool_id   text COLLATE "C" NOT NULL REFERENCES pool ON DELETE CASCADE,
    source_id text COLLATE "C" NOT NULL REFERENCES source,
    weight    integer NOT NULL CHECK (weight BETWEEN 1 AND 1000),
    PRIMARY KEY (pool_id, source_id)
);
CREATE INDEX pool_member_by_source ON pool_member (source_id);

CREATE TABLE egress_rule (
    rule_id                 text COLLATE "C" PRIMARY KEY CHECK (rule_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    position                integer NOT NULL,
    -- Conditions; empty or NULL: none.
    tenant_id               text COLLATE "C" REFERENCES tenant,
    stream                  text NOT NULL,
    sender_domain           text NOT NULL,
    recipient_domain        text NOT NULL,
    mx_suffix               text NOT NULL,
    -- The way: one of these at most.
    pool_id                 text COLLATE "C" REFERENCES pool,
    provider_tenant_id      text COLLATE "C",
    provider_id             text COLLATE "C",
    suspended               boolean NOT NULL,
    -- 0: not set.
    connections             integer NOT NULL CHECK (connections >= 0),
    messages_per_connection integer NOT NULL CHECK (messages_per_connection >= 0),
    messages_per_minute     integer NOT NULL CHECK (messages_per_minute >= 0),
    note                    text NOT NULL,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    version                 bigint NOT NULL DEFAULT 1,
    FOREIGN KEY (provider_tenant_id, provider_id) REFERENCES smtp_provider (tenant_id, provider_id),
    CHECK ((provider_tenant_id IS NULL) = (provider_id IS NULL)),
    CHECK (num_nonnulls(pool_id, provider_id) + suspended::integer <= 1)
);
CREATE INDEX egress_rule_in_order ON egress_rule (position, rule_id);

CREATE TABLE pool_assignment (
    tenant_id text COLLATE "C" PRIMARY KEY REFERENCES tenant,
    pool_id   text COLLATE "C" NOT NULL REFERENCES pool
);
CALL protect('pool_assignment');

-- Sources, pools and rules are the operator's, who acts as the owner: transactions for tenants have no business there.
