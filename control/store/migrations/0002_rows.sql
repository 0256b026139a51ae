-- Row-level security, the second wall between tenants: a statement that forgets its condition still sees only rows of
-- the acting tenant and of those below it.
--
-- control.database begins a transaction for a tenant with SET LOCAL ROLE barua_app and SET LOCAL barua.tenant. The role
-- owns nothing, may change no table and cannot bypass the policies; without the setting it sees nothing. A transaction
-- for the root (intake, streams, housekeeping, the operator) runs as the owner, to whom the policies do not apply.
--
-- What to know when writing a statement or a table:
-- * A migration that makes a table with tenant rows calls protect(). A table without any gets GRANTs of exactly what
--   handlers of tenants do with it, if anything. A test enumerates the tables and refuses the rest.
-- * Of a partitioned table, protect the parent and grant nothing on partitions: access through the parent is under its
--   policies, and the role cannot name a partition.
-- * COPY FROM does not work under row-level security: it is for the owner.
-- * Foreign keys and unique indexes see all rows. ON CONFLICT DO UPDATE fails on a row that is not visible.
-- * INSERT ... RETURNING needs the new row to be visible, and one statement does not see what another part of it wrote.
-- * Under a policy, an index serves only conditions whose operators and functions are marked leakproof: comparisons of
--   text, numbers, times and uuids are; lower(), LIKE, ~, @> and && are not. Store what is looked for (in lower case)
--   instead of an expression, and give the tenant_id too.

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'barua_app') THEN
        CREATE ROLE barua_app NOLOGIN NOINHERIT NOBYPASSRLS;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of the same server makes it at this moment
END $$;

-- An owner that is no superuser becomes the role by membership.
DO $$ BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT barua_app TO %I', current_user);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL; -- somebody else made the role; control checks at its start that the grant is there
END $$;

DO $$ BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO barua_app', current_schema());
END $$;

-- Protects a table: barua_app may use its rows, as far as they belong to the acting tenant or one below it. A row of no
-- tenant (NULL) is nobody's but the owner's.
CREATE PROCEDURE protect(
    protected regclass,
    tenant_column text DEFAULT 'tenant_id',
    allowed text DEFAULT 'SELECT, INSERT, UPDATE, DELETE'
) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', protected);
    EXECUTE format(
        'CREATE POLICY subtree ON %1$s TO barua_app USING ('
        '    (SELECT current_setting(''barua.tenant'', true)) = %2$I'
        '    OR EXISTS (SELECT FROM tenant AS owner WHERE owner.tenant_id = %1$s.%2$I'
        '               AND (SELECT current_setting(''barua.tenant'', true)) = ANY (owner.path)))',
        protected, tenant_column);
    EXECUTE format('GRANT %s ON %s TO barua_app', allowed, protected);
END $$;

-- A tenant sees itself and those below it: not those above.
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY subtree ON tenant TO barua_app USING ((SELECT current_setting('barua.tenant', true)) = ANY (path));
GRANT SELECT, INSERT, UPDATE ON tenant TO barua_app;

CALL protect('login');
CALL protect('api_key');
CALL protect('domain');
CALL protect('dkim_key');
CALL protect('suppression');
CALL protect('lease', allowed => 'SELECT');
CALL protect('message_record', allowed => 'SELECT');

-- Answers are for who asked, and for nobody above.
ALTER TABLE request_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON request_log TO barua_app USING ((SELECT current_setting('barua.tenant', true)) = tenant_id);
GRANT SELECT, INSERT, UPDATE ON request_log TO barua_app;

-- Events belong to whom their recipient's record belongs, which the policy of that table knows.
ALTER TABLE delivery_event ENABLE ROW LEVEL SECURITY;
CREATE POLICY subtree ON delivery_event TO barua_app USING (
    EXISTS (SELECT FROM message_record WHERE message_record.recipient_id = delivery_event.recipient_id));
GRANT SELECT ON delivery_event TO barua_app;

-- The ledger: entries are added, balances follow by the trigger, which therefore runs as the owner.
CALL protect('ledger_posting', allowed => 'SELECT, INSERT');
CALL protect('account', allowed => 'SELECT, INSERT, UPDATE (held_until)');
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION ledger_apply() SECURITY DEFINER SET search_path = %I, pg_temp', current_schema());
END $$;

-- On whose behalf credits moved. An entry is visible to whom it belongs to and to whoever sees one of its postings.
ALTER TABLE ledger_transaction ADD COLUMN acting_tenant text COLLATE "C" NOT NULL
    DEFAULT coalesce(nullif(current_setting('barua.tenant', true), ''), 'operator');
ALTER TABLE ledger_transaction ENABLE ROW LEVEL SECURITY;
CREATE POLICY subtree ON ledger_transaction TO barua_app
    USING (
        (SELECT current_setting('barua.tenant', true)) = acting_tenant
        OR EXISTS (SELECT FROM ledger_posting WHERE ledger_posting.transaction_id = ledger_transaction.transaction_id))
    WITH CHECK ((SELECT current_setting('barua.tenant', true)) = acting_tenant);
GRANT SELECT, INSERT ON ledger_transaction TO barua_app;

-- Every change takes its revision; what others changed is not to be read.
GRANT SELECT, UPDATE (revision) ON policy_head TO barua_app;
GRANT INSERT ON policy_change TO barua_app;

-- The kinds are an enumeration in control/store/policy_log.py, the only writer.
ALTER TABLE policy_change DROP CONSTRAINT policy_change_kind_check;

-- A rule that holds across tenants, and all that a tenant learns of it: whether anybody has proved to own a domain.
CREATE FUNCTION domain_is_verified(wanted text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM domain WHERE domain.domain = wanted COLLATE "C" AND domain.verified)
$$;
DO $$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION domain_is_verified(text) SET search_path = %I, pg_temp', current_schema());
END $$;
