"""CredentialService: logins and API keys."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import credential_pb2, credential_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import apikeys, fields, names
from control.passwords import Passwords
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.store import credentials, policy_log, tenants
from control.store.credentials import ApiKey, Login

_Context = grpc.aio.ServicerContext[Any, Any]


class CredentialServicer(CredentialServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, passwords: Passwords) -> None:
        self._database = database
        self._mutations = mutations
        self._passwords = passwords

    async def CreateLogin(
        self, request: credential_service_pb2.CreateLoginRequest, context: _Context
    ) -> credential_pb2.Login:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        username = fields.username(request.username)
        password_hash = await self._passwords.hash(fields.password(request.password))

        async def effect(connection: Connection) -> credential_pb2.Login:
            await tenants.visible(connection, me, tenant_id)
            made = await credentials.create_login(connection, tenant_id, username, password_hash)
            await policy_log.note(connection, [credentials.login_change(username)])
            return _login(made)

        return await self._mutations.run(request, credential_pb2.Login, effect)

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

    async def DeleteLogin(self, request: credential_service_pb2.DeleteLoginRequest, context: _Context) -> Empty:
        """See the proto."""
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
        display_name = fields.text(request.api_key.display_name, "api_key.display_name")
        scopes = fields.scopes(list(request.api_key.scopes), "api_key.scopes")
        key = apikeys.generate()

        async def effect(connection: Connection) -> credential_pb2.ApiKey:
            await tenants.visible(connection, me, tenant_id)
            made = await credentials.create_api_key(connection, tenant_id, key, display_name, scopes)
            return _api_key(made, key.text)

        return await self._mutations.run(request, credential_pb2.ApiKey, effect, kept=_without_secret)

    async def ListApiKeys(
        self, request: credential_service_pb2.ListApiKeysRequest, context: _Context
    ) -> credential_service_pb2.ListApiKeysResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", tenant_id)

        async def read(connection: Connection) -> list[ApiKey]:
            await tenants.visible(connection, me, tenant_id)
            return await credentials.list_api_keys(connection, tenant_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda key: key.key_id)
        return credential_service_pb2.ListApiKeysResponse(api_keys=map(_api_key, found), next_page_token=token)

    async def DeleteApiKey(self, request: credential_service_pb2.DeleteApiKeyRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "apiKeys", me)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await credentials.delete_api_key(connection, name.tenant_id, name.id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)


def _login(login: Login) -> credential_pb2.Login:
    return credential_pb2.Login(
        name=f"tenants/{login.tenant_id}/logins/{login.username}", create_time=to_proto(login.created_at)
    )


def _api_key(key: ApiKey, secret_key: str = "") -> credential_pb2.ApiKey:
    return credential_pb2.ApiKey(
        name=f"tenants/{key.tenant_id}/apiKeys/{key.key_id}",
        display_name=key.display_name,
        scopes=key.scopes,
        secret_key=secret_key,
        last_four=key.last_four,
        create_time=to_proto(key.created_at),
    )


def _without_secret(key: credential_pb2.ApiKey) -> credential_pb2.ApiKey:
    kept = credential_pb2.ApiKey()
    kept.CopyFrom(key)
    kept.ClearField("secret_key")
    return kept
