-- History: what became of messages, in partitions of one day each, and the numbered order of all that happened.
--
-- An id holds its time (milliseconds since 2024-01-01 in its upper 42 bits), so the id alone says in which partition a
-- row is, and a look-up by id touches one. Days are UTC. Partitions are made ahead by housekeeping and on demand by
-- intake, so a row always has a place; retention drops whole partitions.

DROP TABLE message_record, delivery_event;

-- One row per recipient of a message. No foreign keys: it is written in bulk, by trusted nodes.
CREATE TABLE message_record (
    recipient_id  bigint NOT NULL PRIMARY KEY CHECK (recipient_id >= 0),
    tenant_id     text COLLATE "C" NOT NULL,
    message_id    bigint NOT NULL,
    sender        text COLLATE "C" NOT NULL,
    recipient     text COLLATE "C" NOT NULL,
    -- The recipient in its canonical form. Searches compare it as it is: row-level security keeps conditions with
    -- functions, such as lower(), from using an index.
    recipient_key text COLLATE "C" NOT NULL,
    subject       text NOT NULL,
    source        text NOT NULL,
    stream        text COLLATE "C" NOT NULL DEFAULT '',
    -- How the last attempt left; empty before the first one.
    egress_source text COLLATE "C" NOT NULL DEFAULT '',
    provider      text COLLATE "C" NOT NULL DEFAULT '',
    size_bytes    bigint NOT NULL,
    -- 1 queued, 2 delivered, 3 bounced.
    state         smallint NOT NULL CHECK (state BETWEEN 1 AND 3),
    last_reply    text NOT NULL,
    received_at   timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
) PARTITION BY RANGE (recipient_id);
-- Ids rise with time, so these give the newest first.
CREATE INDEX message_record_by_tenant ON message_record (tenant_id, recipient_id);
CREATE INDEX message_record_by_recipient ON message_record (recipient_key, recipient_id);
CALL protect('message_record');

-- What happened to recipients, as told by the journal. What only RECEIVED carries is in message_record.
CREATE TABLE delivery_event (
    recipient_id    bigint NOT NULL CHECK (recipient_id >= 0),
    -- Place in the order of everything that happened: rises in the order of commits, without gaps.
    event_number    bigint NOT NULL,
    tenant_id       text COLLATE "C" NOT NULL,
    message_id      bigint NOT NULL,
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
    egress_source   text COLLATE "C" NOT NULL DEFAULT '',
    provider        text COLLATE "C" NOT NULL DEFAULT '',
    PRIMARY KEY (recipient_id, event_number)
) PARTITION BY RANGE (recipient_id);
CREATE INDEX delivery_event_by_number ON delivery_event (event_number);
CALL protect('delivery_event');

-- The lowest id of a day.
CREATE FUNCTION history_first_id(day date) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT ((day - DATE '2024-01-01')::bigint * 86400000) << 21
$$;

-- Makes the partitions of these days where they are missing. Each table is made by itself and then attached, which keeps
-- nobody from reading and writing the rest. Partitions have no row-level security and no grants: tenants' transactions
-- reach them through the parents alone.
CREATE FUNCTION make_history_days(days date[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    day date;
    partition text;
    last_day CONSTANT date := DATE '2024-01-01' + 50903;
BEGIN
    FOREACH day IN ARRAY days LOOP
        FOREACH parent IN ARRAY ARRAY['message_record', 'delivery_event'] LOOP
            partition := parent || '_d' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            -- One makes it and the others find it made; ATTACH needs the same lock.
            EXECUTE format('LOCK TABLE %I IN SHARE UPDATE EXCLUSIVE MODE', parent);
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            -- Records change a few times in their first minutes: room in the page keeps that out of the indexes.
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = %s)',
                partition, parent, CASE parent WHEN 'message_record' THEN 85 ELSE 100 END);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, partition,
                history_first_id(day),
                CASE WHEN day < last_day THEN history_first_id(day + 1)::text ELSE 'MAXVALUE' END);
        END LOOP;
    END LOOP;
END $$;

-- Days that have partitions, oldest first, with the newest number of an event in each.
CREATE FUNCTION history_days() RETURNS TABLE (day date, newest_number bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
    partition text;
BEGIN
    FOR partition IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'delivery_event'::regclass ORDER BY relname
    LOOP
        day := to_date(right(partition, 8), 'YYYYMMDD');
        EXECUTE format('SELECT coalesce(max(event_number), 0) FROM %I', partition) INTO newest_number;
        RETURN NEXT;
    END LOOP;
END $$;

-- Drops one partition; does not wait long for those who use its table, for others wait behind it.
CREATE FUNCTION drop_history_day(parent text, day date) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '1s' AS $$
BEGIN
    IF parent NOT IN ('message_record', 'delivery_event') THEN
        RAISE EXCEPTION '% has no days', parent;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I', parent || '_d' || to_char(day, 'YYYYMMDD'));
END $$;

SELECT make_history_days(ARRAY[current_date, current_date + 1]);

-- One row. Intake, which control does for itself, takes the numbers of its events here, and the row stays locked until it commits: so numbers become
-- visible in their order, which a sequence could not promise.
CREATE TABLE event_head (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Name of this order of events.
    lineage        uuid NOT NULL DEFAULT gen_random_uuid(),
    number         bigint NOT NULL DEFAULT 0,
    -- Events up to here may be gone.
    trimmed_number bigint NOT NULL DEFAULT 0
);
INSERT INTO event_head DEFAULT VALUES;

-- How far each consumer has come; moves in the transaction of what it did with the events.
CREATE TABLE event_cursor (
    name       text COLLATE "C" PRIMARY KEY,
    number     bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What happened on a day (UTC), by tenant and by one dimension at a time.
CREATE TABLE daily_counter (
    tenant_id    text COLLATE "C" NOT NULL,
    day          date NOT NULL,
    -- The number of barua.control.v1.Dimension; 1 is the total.
    dimension    smallint NOT NULL,
    -- Such as a domain; empty for the total.
    value        text COLLATE "C" NOT NULL,
    accepted     bigint NOT NULL DEFAULT 0 CHECK (accepted >= 0),
    delivered    bigint NOT NULL DEFAULT 0 CHECK (delivered >= 0),
    bounced      bigint NOT NULL DEFAULT 0 CHECK (bounced >= 0),
    -- Attempts that failed for now, not recipients.
    deferred     bigint NOT NULL DEFAULT 0 CHECK (deferred >= 0),
    expired      bigint NOT NULL DEFAULT 0 CHECK (expired >= 0),
    suppressed   bigint NOT NULL DEFAULT 0 CHECK (suppressed >= 0),
    complained   bigint NOT NULL DEFAULT 0 CHECK (complained >= 0),
    unsubscribed bigint NOT NULL DEFAULT 0 CHECK (unsubscribed >= 0),
    PRIMARY KEY (tenant_id, dimension, day, value)
) WITH (fillfactor = 70);
-- Retention deletes by day, which rises with the place of a row in the table.
CREATE INDEX daily_counter_by_day ON daily_counter USING brin (day);
CALL protect('daily_counter');
