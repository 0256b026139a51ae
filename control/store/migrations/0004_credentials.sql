-- Logins with roles, credentials that expire, rotate and hold for some networks only, and OAuth clients.
-- allowed_networks are in CIDR form; none: everywhere. last_used_at is written in batches and does not raise version.

ALTER TABLE login
    -- 'admin': all that its tenant may do. 'read_only': looks. 'sender': SMTP only.
    ADD role             text NOT NULL DEFAULT 'admin' CHECK (role IN ('admin', 'read_only', 'sender')),
    ADD disabled         boolean NOT NULL DEFAULT false,
    ADD allowed_networks text[] NOT NULL DEFAULT '{}',
    ADD expires_at       timestamptz,
    ADD updated_at       timestamptz NOT NULL DEFAULT now(),
    ADD last_used_at     timestamptz,
    -- Rises with each write; the etag is made of it.
    ADD version          bigint NOT NULL DEFAULT 1;

ALTER TABLE api_key
    ADD allowed_networks       text[] NOT NULL DEFAULT '{}',
    ADD expires_at             timestamptz,
    -- The secret before the last rotation, and until when it is valid.
    ADD previous_secret_sha256 bytea CHECK (length(previous_secret_sha256) = 32),
    ADD previous_expires_at    timestamptz,
    ADD updated_at             timestamptz NOT NULL DEFAULT now(),
    ADD last_used_at           timestamptz,
    ADD version                bigint NOT NULL DEFAULT 1,
    ADD CHECK ((previous_secret_sha256 IS NULL) = (previous_expires_at IS NULL));

CREATE TABLE oauth_client (
    client_id              text COLLATE "C" PRIMARY KEY,
    tenant_id              text COLLATE "C" NOT NULL REFERENCES tenant,
    display_name           text NOT NULL,
    scopes                 text[] NOT NULL,
    secret_sha256          bytea NOT NULL CHECK (length(secret_sha256) = 32),
    last_four              text NOT NULL,
    previous_secret_sha256 bytea CHECK (length(previous_secret_sha256) = 32),
    previous_expires_at    timestamptz,
    -- Tokens carry it; one of another generation is no longer valid.
    token_generation       bigint NOT NULL DEFAULT 1,
    allowed_networks       text[] NOT NULL DEFAULT '{}',
    expires_at             timestamptz,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    last_used_at           timestamptz,
    version                bigint NOT NULL DEFAULT 1,
    CHECK ((previous_secret_sha256 IS NULL) = (previous_expires_at IS NULL))
);
CREATE INDEX oauth_client_by_tenant ON oauth_client (tenant_id, client_id);
CALL protect('oauth_client');
