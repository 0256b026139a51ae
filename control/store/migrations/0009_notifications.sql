-- Webhooks: who wants to be told of what, what has been told; alerts: rules on rates and balances, and their firings.

CREATE TABLE webhook (
    tenant_id              text COLLATE "C" NOT NULL REFERENCES tenant,
    -- Random, and unique on the whole platform.
    webhook_id             text COLLATE "C" PRIMARY KEY,
    -- A short name of it, for programs that can only count.
    number                 bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    display_name           text NOT NULL,
    url                    text NOT NULL,
    -- Numbers of control.model.webhooks.Kind.
    kinds                  smallint[] NOT NULL,
    -- Empty: all of them.
    streams                text[] COLLATE "C" NOT NULL,
    sender_domains         text[] COLLATE "C" NOT NULL,
    -- Also what happens to tenants below this one.
    include_subtree        boolean NOT NULL,
    enabled                boolean NOT NULL,
    -- Why it was switched off, if control did it; else empty.
    disabled_reason        text NOT NULL DEFAULT '',
    disabled_at            timestamptz,
    -- Number of control.model.webhooks.Format.
    format                 smallint NOT NULL,
    -- A JSON object under AES-256-GCM: values may be credentials of the receiver.
    sealed_headers         bytea NOT NULL,
    batch_size             integer NOT NULL CHECK (batch_size > 0),
    sealed_secret          bytea NOT NULL,
    -- Signs too, until then.
    sealed_previous_secret bytea,
    previous_secret_until  timestamptz,
    -- Attempts that failed since the last one that did not, the first of them, and the pause after them: of the endpoint
    -- as a whole, for all control programs.
    failures               integer NOT NULL DEFAULT 0,
    failing_since          timestamptz,
    paused_until           timestamptz NOT NULL DEFAULT '-infinity',
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    -- Rises with each write by somebody; the etag is made of it.
    version                bigint NOT NULL DEFAULT 1,
    CHECK ((sealed_previous_secret IS NULL) = (previous_secret_until IS NULL))
);
CREATE INDEX webhook_by_tenant ON webhook (tenant_id, webhook_id);
CALL protect('webhook');

-- One event for one webhook.
CREATE TABLE webhook_delivery (
    delivery_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The webhook's tenant; the event may be of one below it.
    tenant_id       text COLLATE "C" NOT NULL,
    webhook_id      text COLLATE "C" NOT NULL REFERENCES webhook ON DELETE CASCADE,
    -- The same for every delivery of the event, so that receivers can drop repeats.
    event_id        uuid NOT NULL,
    kind            smallint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    -- What is told, as JSON in no webhook's format.
    content         bytea NOT NULL,
    -- 1 pending, 2 delivered, 3 given up.
    state           smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3),
    -- The next attempt; while one is under way, when it counts as lost.
    due_at          timestamptz NOT NULL DEFAULT now(),
    -- Which attempt is under way.
    claim           uuid,
    attempts        integer NOT NULL DEFAULT 0,
    -- Of the last attempt: 0 and empty if there was no answer.
    status_code     integer NOT NULL DEFAULT 0,
    answer          text NOT NULL DEFAULT '',
    error           text NOT NULL DEFAULT '',
    duration_ms     integer NOT NULL DEFAULT 0,
    attempted_at    timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- When it was last asked for: at first, or by a replay.
    queued_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (webhook_id, event_id)
) WITH (fillfactor = 80);
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, due_at) WHERE state = 1;
CREATE INDEX webhook_delivery_by_webhook ON webhook_delivery (webhook_id, delivery_id DESC);
CREATE INDEX webhook_delivery_by_time ON webhook_delivery (webhook_id, occurred_at);
CREATE INDEX webhook_delivery_old ON webhook_delivery (queued_at);
CALL protect('webhook_delivery');

CREATE TABLE alert_rule (
    tenant_id         text COLLATE "C" NOT NULL REFERENCES tenant,
    alert_rule_id     text COLLATE "C" PRIMARY KEY,
    display_name      text NOT NULL,
    -- Number of control.model.alerts.Metric.
    metric            smallint NOT NULL,
    -- A share from 0 to 1 for rates, a number of credits or webhooks for the others.
    threshold         double precision NOT NULL,
    -- A firing ends only when the value is this far on the good side of the threshold.
    hysteresis        double precision NOT NULL,
    window_seconds    integer NOT NULL,
    minimum_volume    bigint NOT NULL,
    -- After a firing ends, for so long no new one begins.
    cooldown_seconds  integer NOT NULL,
    include_subtree   boolean NOT NULL,
    notify_webhooks   boolean NOT NULL,
    emails            text[] NOT NULL,
    enabled           boolean NOT NULL,
    firing            boolean NOT NULL DEFAULT false,
    -- When it last began or ceased to fire; NULL: it never did.
    state_since       timestamptz,
    -- At the last evaluation; NULL: there was too little to judge.
    last_value        double precision,
    evaluated_at      timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    version           bigint NOT NULL DEFAULT 1
);
CREATE INDEX alert_rule_by_tenant ON alert_rule (tenant_id, alert_rule_id);
CALL protect('alert_rule');

-- A time during which something was wrong.
CREATE TABLE alert (
    alert_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id         text COLLATE "C" NOT NULL REFERENCES tenant,
    -- Empty for what control reports without a rule.
    alert_rule_id     text COLLATE "C" NOT NULL,
    display_name      text NOT NULL,
    metric            smallint NOT NULL,
    threshold         double precision NOT NULL,
    -- When it began, and at the last evaluation while it lasts.
    value             double precision NOT NULL,
    -- What exactly, such as the webhook; may be empty.
    detail            text NOT NULL,
    started_at        timestamptz NOT NULL DEFAULT now(),
    ended_at          timestamptz,
    acknowledged_at   timestamptz,
    acknowledgement   text NOT NULL DEFAULT ''
);
CREATE INDEX alert_by_tenant ON alert (tenant_id, alert_id DESC);
CREATE UNIQUE INDEX alert_open ON alert (alert_rule_id) WHERE ended_at IS NULL AND alert_rule_id <> '';
CALL protect('alert');

-- Mail about alerts that has not gone out yet.
CREATE TABLE alert_mail (
    alert_mail_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     text COLLATE "C" NOT NULL,
    recipient     text NOT NULL,
    subject       text NOT NULL,
    body          text NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL DEFAULT now(),
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX alert_mail_due ON alert_mail (due_at);
CALL protect('alert_mail');

-- Events per minute, for as long as the longest window of a rule; only of tenants that have a rule about rates.
CREATE TABLE event_minute (
    tenant_id text COLLATE "C" NOT NULL,
    -- Of the tenant and those below it, or of the tenant alone.
    subtree   boolean NOT NULL,
    minute    timestamptz NOT NULL,
    -- Number of barua.journal.v1.Event.Kind.
    kind      smallint NOT NULL,
    events    bigint NOT NULL,
    PRIMARY KEY (tenant_id, subtree, minute, kind)
) WITH (fillfactor = 70);
CREATE INDEX event_minute_old ON event_minute (minute);
CALL protect('event_minute');

-- Of a tenant that is deleted, nothing is told or looked at any more. Its firings stay, as its history does.
CREATE FUNCTION end_notifications() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM webhook WHERE tenant_id = NEW.tenant_id;
    DELETE FROM alert_rule WHERE tenant_id = NEW.tenant_id;
    DELETE FROM alert_mail WHERE tenant_id = NEW.tenant_id;
    UPDATE alert SET ended_at = now() WHERE tenant_id = NEW.tenant_id AND ended_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_end_notifications AFTER UPDATE OF deleted_at ON tenant
    FOR EACH ROW WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION end_notifications();
