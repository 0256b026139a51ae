-- Row-level security, the second wall between tenants: even a statement that forgets its condition sees only rows of the
-- acting tenant and those below it. Handlers run as barua_app, which owns nothing and cannot bypass it, with the setting
-- barua.tenant; control itself (intake, streams, housekeeping) acts for the root, which sees everything.

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'barua_app') THEN
        CREATE ROLE barua_app NOLOGIN NOINHERIT NOBYPASSRLS;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of the same server makes it at this moment
END $$;

-- Protects a table: barua_app may read and write its rows, as far as they belong to the acting tenant or one below it.
-- Every migration that makes a table calls it.
CREATE PROCEDURE protect(protected regclass, tenant_column text DEFAULT 'tenant_id') LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', protected);
    EXECUTE format(
        'CREATE POLICY subtree ON %1$s TO barua_app USING ('
        '    (SELECT current_setting(''barua.tenant'', true)) IN (''operator'', %2$I)'
        '    OR EXISTS (SELECT FROM tenant AS owner WHERE owner.tenant_id = %1$s.%2$I'
        '               AND (SELECT current_setting(''barua.tenant'', true)) = ANY (owner.path)))',
        protected, tenant_column);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO barua_app', protected);
END $$;

-- The kinds are an enumeration in control/store/policy_log.py, the only writer.
ALTER TABLE policy_change DROP CONSTRAINT policy_change_kind_check;
