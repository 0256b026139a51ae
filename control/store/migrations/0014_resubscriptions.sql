-- Questions to people who unsubscribed whether they want mail again.

CREATE TABLE resubscription (
    -- What the link in the message proves to know of it.
    reference      bytea PRIMARY KEY CHECK (length(reference) = 16),
    tenant_id      text COLLATE "C" NOT NULL,
    address        text COLLATE "C" NOT NULL,
    language_code  text NOT NULL,
    requested_at   timestamptz NOT NULL DEFAULT now(),
    -- Being sent, or sent; false: the mail server did not take it. Only these count.
    counts         boolean NOT NULL DEFAULT true,
    confirmed_at   timestamptz
);
CREATE INDEX resubscription_by_time ON resubscription (tenant_id, requested_at);
CALL protect('resubscription');
