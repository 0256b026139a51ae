"""CredentialService: logins and API keys."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import credential_pb2, credential_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.keyvault import KeyVault
from control.model import apikeys, fields, names
from control.model import credentials as rules
from control.model.credentials import LoginRole
from control.passwords import Passwords
from control.services import credential_fields
from control.services.credential_fields import KEY_FIELDS
from control.services.listing import listing_of, page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.store import credentials, policy_log, tenants
from control.store.credentials import ApiKey, Login, LoginSettings

_Context = grpc.aio.ServicerContext[Any, Any]

LOGIN_FIELDS = frozenset({"role", "password", "disabled", "allowed_networks", "expire_time"})
"""What can be changed of a login."""

_ROLES = {
    credential_pb2.Login.ROLE_UNSPECIFIED: LoginRole.ADMIN,
    credential_pb2.Login.ROLE_ADMIN: LoginRole.ADMIN,
    credential_pb2.Login.ROLE_READ_ONLY: LoginRole.READ_ONLY,
    credential_pb2.Login.ROLE_SENDER: LoginRole.SENDER,
}
_ROLE_PROTOS = {role: proto for proto, role in _ROLES.items() if proto}


class CredentialServicer(CredentialServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, passwords: Passwords, vault: KeyVault) -> None:
        self._database = database
        self._mutations = mutations
        self._passwords = passwords
        self._vault = vault

    async def CreateLogin(
        self, request: credential_service_pb2.CreateLoginRequest, context: _Context
    ) -> credential_pb2.Login:
        """See the proto."""
        credential_fields.require_unlimited_caller()
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        username = fields.username(request.username)
        settings = _changed(LoginSettings(), request.login, LOGIN_FIELDS)
        password_hash = await self._passwords.hash(fields.password(request.password))

        async def effect(connection: Connection) -> credential_pb2.Login:
            await tenants.visible(connection, me, tenant_id, lock=True)
            made = await credentials.create_login(connection, tenant_id, username, password_hash, settings)
            await policy_log.note(connection, [credentials.login_change(username)])
            return _login(made)

        return await self._mutations.run(request, credential_pb2.Login, effect)

    async def GetLogin(
        self, request: credential_service_pb2.GetLoginRequest, context: _Context
    ) -> credential_pb2.Login:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "logins", me)

        async def read(connection: Connection) -> Login:
            await tenants.visible(connection, me, name.tenant_id)
            return await credentials.get_login(connection, name.tenant_id, name.id)

        return _login(await self._database.transact(read))

    async def ListLogins(
        self, request: credential_service_pb2.ListLoginsRequest, context: _Context
    ) -> credential_service_pb2.ListLoginsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", tenant_id)

        async def read(connection: Connection) -> list[Login]:
            await tenants.visible(connection, me, tenant_id)
            return await credentials.list_logins(connection, tenant_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda login: login.username)
        return credential_service_pb2.ListLoginsResponse(logins=map(_login, found), next_page_token=token)

    async def UpdateLogin(
        self, request: credential_service_pb2.UpdateLoginRequest, context: _Context
    ) -> credential_pb2.Login:
        """See the proto."""
        credential_fields.require_unlimited_caller()
        me = caller().tenant_id
        name = names.child(request.login.name, "logins", me, "login.name")
        paths = paths_of(request.update_mask, request.login, "login", LOGIN_FIELDS)
        password_hash = ""
        if "password" in paths:
            password_hash = await self._passwords.hash(fields.password(request.login.password, "login.password"))

        async def effect(connection: Connection) -> credential_pb2.Login:
            await tenants.visible(connection, me, name.tenant_id)
            login = await credentials.get_login(connection, name.tenant_id, name.id, lock=True)
            check_etag(request.login.etag, str(login.version), "login.etag")
            settings = _changed(login.settings, request.login, paths)
            kept = password_hash or login.password_hash
            return _login(await credentials.save_login(connection, login.username, kept, settings))

        return await self._mutations.run(request, credential_pb2.Login, effect)

    async def DeleteLogin(self, request: credential_service_pb2.DeleteLoginRequest, context: _Context) -> Empty:
        """See the proto."""
        credential_fields.require_unlimited_caller()
        me = caller().tenant_id
        name = names.child(request.name, "logins", me)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await credentials.delete_login(connection, name.tenant_id, name.id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def CreateApiKey(
        self, request: credential_service_pb2.CreateApiKeyRequest, context: _Context
    ) -> credential_pb2.ApiKey:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        settings = credential_fields.new_settings(request.api_key, "api_key")
        credential_fields.require_grantable(settings.scopes)
        key = apikeys.generate()

        async def effect(connection: Connection) -> credential_pb2.ApiKey:
            await tenants.visible(connection, me, tenant_id, lock=True)
            sealed = self._vault.seal(key, tenant_id) if request.api_key.recoverable else None
            made = await credentials.create_api_key(connection, tenant_id, key, settings, sealed)
            return _api_key(made, key.text)

        return await self._mutations.run(request, credential_pb2.ApiKey, effect, kept=_without_secret)

    async def GetApiKey(
        self, request: credential_service_pb2.GetApiKeyRequest, context: _Context
    ) -> credential_pb2.ApiKey:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "apiKeys", me)
        telling = credential_fields.tells_secrets(request.view)

        async def read(connection: Connection) -> ApiKey:
            await tenants.visible(connection, me, name.tenant_id)
            return await credentials.get_api_key(connection, name.tenant_id, name.id)

        key = await self._database.transact(read)
        if not telling:
            return _api_key(key)
        credential_fields.require_grantable(key.settings.scopes)
        return _api_key(key, self._vault.text(key))

    async def ListApiKeys(
        self, request: credential_service_pb2.ListApiKeysRequest, context: _Context
    ) -> credential_service_pb2.ListApiKeysResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        telling = credential_fields.tells_secrets(request.view)
        listing = listing_of(request, tenant_id, str(request.include_descendants))

        async def read(connection: Connection) -> tuple[list[ApiKey], int]:
            await tenants.visible(connection, me, tenant_id)
            return await credentials.list_api_keys(connection, tenant_id, request.include_descendants, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda key: key.key_id)
        told = [
            _api_key(key, self._vault.text(key) if telling and caller().may_grant(key.settings.scopes) else "")
            for key in shown
        ]
        return credential_service_pb2.ListApiKeysResponse(api_keys=told, next_page_token=token, total_size=total)

    async def UpdateApiKey(
        self, request: credential_service_pb2.UpdateApiKeyRequest, context: _Context
    ) -> credential_pb2.ApiKey:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.api_key.name, "apiKeys", me, "api_key.name")
        paths = paths_of(request.update_mask, request.api_key, "api_key", KEY_FIELDS)

        async def effect(connection: Connection) -> credential_pb2.ApiKey:
            await tenants.visible(connection, me, name.tenant_id)
            key = await credentials.get_api_key(connection, name.tenant_id, name.id, lock=True)
            check_etag(request.api_key.etag, str(key.version), "api_key.etag")
            settings = credential_fields.changed_settings(key.settings, request.api_key, "api_key", paths)
            credential_fields.require_grantable([*key.settings.scopes, *settings.scopes])
            return _api_key(await credentials.save_api_key(connection, key, settings, key.secret, key.sealed_secret))

        return await self._mutations.run(request, credential_pb2.ApiKey, effect)

    async def RotateApiKey(
        self, request: credential_service_pb2.RotateApiKeyRequest, context: _Context
    ) -> credential_pb2.ApiKey:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "apiKeys", me)
        previous_end = credential_fields.grace_end(request.grace_period)
        new = apikeys.generate(name.id)

        async def effect(connection: Connection) -> credential_pb2.ApiKey:
            await tenants.visible(connection, me, name.tenant_id)
            key = await credentials.get_api_key(connection, name.tenant_id, name.id, lock=True)
            credential_fields.require_grantable(key.settings.scopes)
            secret = key.secret.rotated(new, previous_end)
            sealed = self._vault.seal(new, name.tenant_id) if key.sealed_secret is not None else None
            return _api_key(await credentials.save_api_key(connection, key, key.settings, secret, sealed), new.text)

        return await self._mutations.run(request, credential_pb2.ApiKey, effect, kept=_without_secret)

    async def DeleteApiKey(self, request: credential_service_pb2.DeleteApiKeyRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "apiKeys", me)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await credentials.delete_api_key(connection, name.tenant_id, name.id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)


def _changed(old: LoginSettings, login: credential_pb2.Login, paths: frozenset[str]) -> LoginSettings:
    """The settings of a login after an update of ``paths``."""
    role, allowed_networks, expires_at = old.role, old.allowed_networks, old.expires_at
    if "role" in paths:
        known = _ROLES.get(login.role)
        if known is None:
            raise fields.invalid("login.role", f"login.role {login.role} is not known")
        role = known
    if "allowed_networks" in paths:
        allowed_networks = rules.allowed_networks(login.allowed_networks, "login.allowed_networks")
    if "expire_time" in paths:
        expires_at = credential_fields.expiry(login, "login")
    disabled = login.disabled if "disabled" in paths else old.disabled
    return LoginSettings(role, disabled, allowed_networks, expires_at)


def _login(login: Login) -> credential_pb2.Login:
    return credential_pb2.Login(
        name=f"tenants/{login.tenant_id}/logins/{login.username}",
        create_time=to_proto(login.created_at),
        role=_ROLE_PROTOS[login.settings.role],
        disabled=login.settings.disabled,
        allowed_networks=login.settings.allowed_networks,
        expire_time=to_proto(login.settings.expires_at),
        update_time=to_proto(login.updated_at),
        last_used_time=to_proto(login.last_used_at),
        etag=str(login.version),
    )


def _api_key(key: ApiKey, secret_key: str = "") -> credential_pb2.ApiKey:
    return credential_pb2.ApiKey(
        name=f"tenants/{key.tenant_id}/apiKeys/{key.key_id}",
        display_name=key.settings.display_name,
        scopes=key.settings.scopes,
        secret_key=secret_key,
        last_four=key.secret.last_four,
        create_time=to_proto(key.created_at),
        allowed_networks=key.settings.allowed_networks,
        expire_time=to_proto(key.settings.expires_at),
        previous_expire_time=to_proto(credential_fields.previous_end(key.secret)),
        update_time=to_proto(key.updated_at),
        last_used_time=to_proto(key.last_used_at),
        etag=str(key.version),
        number=key.number,
        recoverable=key.sealed_secret is not None,
    )


def _without_secret(key: credential_pb2.ApiKey) -> credential_pb2.ApiKey:
    kept = credential_pb2.ApiKey()
    kept.CopyFrom(key)
    kept.ClearField("secret_key")
    return kept
