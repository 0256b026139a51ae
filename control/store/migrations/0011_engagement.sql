-- What recipients do with messages, and what submitters say of them.

-- New columns may be null and come last: a row without them is no larger than it was.
ALTER TABLE message_record
    -- What the submitter gave along: tags, a JSON object, an id of 16 octets; null: nothing.
    ADD COLUMN tags text[] COLLATE "C",
    ADD COLUMN properties text,
    ADD COLUMN reference bytea CHECK (length(reference) = 16),
    -- Of the last attempt; null: none yet.
    ADD COLUMN last_code integer,
    ADD COLUMN last_enhanced_code text,
    ADD COLUMN remote_host text,
    -- What the recipient did; null: nothing.
    ADD COLUMN open_count integer,
    ADD COLUMN click_count integer,
    ADD COLUMN first_open_at timestamptz,
    ADD COLUMN first_click_at timestamptz,
    ADD COLUMN unsubscribed_at timestamptz,
    ADD COLUMN complained_at timestamptz,
    -- 4 dropped.
    DROP CONSTRAINT message_record_state_check,
    ADD CONSTRAINT message_record_state_check CHECK (state BETWEEN 1 AND 4);
-- Mail without a reference has no entry here. Ids are in it so that a look-up between two of them is one range of it:
-- otherwise a plan made for any bounds goes through all records between them.
CREATE INDEX message_record_by_reference ON message_record (reference, recipient_id) WHERE reference IS NOT NULL;

ALTER TABLE delivery_event
    -- Only of what recipients did (kinds 8 to 11); those are told by control itself, holder 0, sequence 0.
    ADD COLUMN ip_address text,
    ADD COLUMN user_agent text,
    ADD COLUMN url text,
    ADD COLUMN is_first boolean;

-- What recipients did, as it came in. A row that is due waits for its message; the others are there so that nothing is
-- recorded twice, and go after two days. Control alone uses it.
CREATE TABLE engagement (
    request_id   uuid PRIMARY KEY,
    kind         smallint NOT NULL CHECK (kind BETWEEN 8 AND 11),
    -- Whose doing it was: the reference of the message, or the recipient's id, where that is known.
    reference    bytea CHECK (length(reference) = 16),
    recipient_id bigint CHECK ((recipient_id IS NULL) <> (reference IS NULL)),
    occurred_at  timestamptz NOT NULL,
    ip_address   text NOT NULL,
    user_agent   text NOT NULL,
    url          text NOT NULL,
    arrived_at   timestamptz NOT NULL DEFAULT now(),
    -- When to look for its message next; null: it is done with.
    due_at       timestamptz
);
CREATE INDEX engagement_due ON engagement (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX engagement_by_arrival ON engagement USING brin (arrived_at);

ALTER TABLE daily_counter
    ADD COLUMN smtp_dropped bigint NOT NULL DEFAULT 0 CHECK (smtp_dropped >= 0),
    ADD COLUMN opened bigint NOT NULL DEFAULT 0 CHECK (opened >= 0),
    ADD COLUMN opens bigint NOT NULL DEFAULT 0 CHECK (opens >= 0),
    ADD COLUMN clicked bigint NOT NULL DEFAULT 0 CHECK (clicked >= 0),
    ADD COLUMN clicks bigint NOT NULL DEFAULT 0 CHECK (clicks >= 0);

-- Days that have partitions, oldest first, with the newest number of an event in each, and that of one that is no doing
-- of a recipient. Somebody may open a message weeks later: who follows the events is not lost when such an event goes
-- with the day of its message.
DROP FUNCTION history_days;
CREATE FUNCTION history_days() RETURNS TABLE (day date, newest_number bigint, delivery_number bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    partition text;
BEGIN
    FOR partition IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'delivery_event'::regclass ORDER BY relname
    LOOP
        day := to_date(right(partition, 8), 'YYYYMMDD');
        EXECUTE format('SELECT coalesce(max(event_number), 0),'
            ' coalesce((SELECT event_number FROM %1$I WHERE kind < 8 ORDER BY event_number DESC LIMIT 1), 0) FROM %1$I',
            partition) INTO newest_number, delivery_number;
        RETURN NEXT;
    END LOOP;
END $$;
