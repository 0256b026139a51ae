-- Webhooks in the forms of other services, and endpoints that single messages name for themselves.

ALTER TABLE webhook
    -- Host and port, if it was made for messages that name an endpoint of their own there; NULL: somebody made it.
    ADD COLUMN endpoint text COLLATE "C";
CREATE UNIQUE INDEX webhook_by_endpoint ON webhook (tenant_id, endpoint, format) WHERE endpoint IS NOT NULL;

ALTER TABLE webhook_delivery
    -- Where to post it, if the message named it; empty: the URL of the webhook.
    ADD COLUMN url text COLLATE "C" NOT NULL DEFAULT '';
