"""OAuthService: OAuth 2.0 client credentials, and the tokens they get."""

import time
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import oauth_client_pb2, oauth_service_pb2
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceServicer

from control.authentication import caller, check_in_force, peer
from control.database import Connection, Database
from control.failures import FailureLimit
from control.model import apikeys, fields, names
from control.permissions import SCOPES
from control.services import credential_fields
from control.services.credential_fields import KEY_FIELDS
from control.services.listing import listing_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.store import oauth_clients, tenants
from control.store.credential_use import Credential
from control.store.oauth_clients import OAuthClient
from control.usage import Usage
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.tokens import LIFE_SECONDS, TokenKey

_Context = grpc.aio.ServicerContext[Any, Any]

TOKEN_TYPE = "Bearer"  # noqa: S105 - a scheme (RFC 6750), not a secret
MAX_FAILURES = 20
"""Wrong secrets of one client from one address in a minute: the holder calls from elsewhere and is not kept out."""
MAX_ADDRESS_FAILURES = 300
"""Wrong secrets from one address in a minute."""


class OAuthServicer(OAuthServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, usage: Usage, token_key: TokenKey) -> None:
        self._database = database
        self._mutations = mutations
        self._usage = usage
        self._token_key = token_key
        self._client_failures = FailureLimit(MAX_FAILURES)
        self._address_failures = FailureLimit(MAX_ADDRESS_FAILURES)

    async def CreateOAuthClient(
        self, request: oauth_service_pb2.CreateOAuthClientRequest, context: _Context
    ) -> oauth_client_pb2.OAuthClient:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        settings = credential_fields.new_settings(request.oauth_client, "oauth_client")
        credential_fields.require_grantable(settings.scopes)
        key = apikeys.generate()

        async def effect(connection: Connection) -> oauth_client_pb2.OAuthClient:
            await tenants.visible(connection, me, tenant_id, lock=True)
            return _to_proto(await oauth_clients.create(connection, tenant_id, key, settings), key.secret)

        return await self._mutations.run(request, oauth_client_pb2.OAuthClient, effect, kept=_without_secret)

    async def GetOAuthClient(
        self, request: oauth_service_pb2.GetOAuthClientRequest, context: _Context
    ) -> oauth_client_pb2.OAuthClient:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "oauthClients", me)

        async def read(connection: Connection) -> OAuthClient:
            await tenants.visible(connection, me, name.tenant_id)
            return await oauth_clients.get(connection, name.tenant_id, name.id)

        return _to_proto(await self._database.transact(read))

    async def ListOAuthClients(
        self, request: oauth_service_pb2.ListOAuthClientsRequest, context: _Context
    ) -> oauth_service_pb2.ListOAuthClientsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        listing = listing_of(request, tenant_id)

        async def read(connection: Connection) -> tuple[list[OAuthClient], int]:
            await tenants.visible(connection, me, tenant_id)
            return await oauth_clients.page(connection, tenant_id, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda client: client.client_id)
        return oauth_service_pb2.ListOAuthClientsResponse(
            oauth_clients=map(_to_proto, shown), next_page_token=token, total_size=total
        )

    async def UpdateOAuthClient(
        self, request: oauth_service_pb2.UpdateOAuthClientRequest, context: _Context
    ) -> oauth_client_pb2.OAuthClient:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.oauth_client.name, "oauthClients", me, "oauth_client.name")
        paths = paths_of(request.update_mask, request.oauth_client, "oauth_client", KEY_FIELDS)

        async def effect(connection: Connection) -> oauth_client_pb2.OAuthClient:
            await tenants.visible(connection, me, name.tenant_id)
            client = await oauth_clients.get(connection, name.tenant_id, name.id, lock=True)
            check_etag(request.oauth_client.etag, str(client.version), "oauth_client.etag")
            settings = credential_fields.changed_settings(client.settings, request.oauth_client, "oauth_client", paths)
            credential_fields.require_grantable([*client.settings.scopes, *settings.scopes])
            return _to_proto(await oauth_clients.save(connection, client.client_id, settings, client.secret))

        return await self._mutations.run(request, oauth_client_pb2.OAuthClient, effect)

    async def RotateOAuthClient(
        self, request: oauth_service_pb2.RotateOAuthClientRequest, context: _Context
    ) -> oauth_client_pb2.OAuthClient:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "oauthClients", me)
        previous_end = credential_fields.grace_end(request.grace_period)
        new = apikeys.generate(name.id)

        async def effect(connection: Connection) -> oauth_client_pb2.OAuthClient:
            await tenants.visible(connection, me, name.tenant_id)
            client = await oauth_clients.get(connection, name.tenant_id, name.id, lock=True)
            credential_fields.require_grantable(client.settings.scopes)
            saved = await oauth_clients.save(
                connection,
                client.client_id,
                client.settings,
                client.secret.rotated(new, previous_end),
                ends_tokens=previous_end is None,
            )
            return _to_proto(saved, new.secret)

        return await self._mutations.run(request, oauth_client_pb2.OAuthClient, effect, kept=_without_secret)

    async def DeleteOAuthClient(self, request: oauth_service_pb2.DeleteOAuthClientRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "oauthClients", me)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await oauth_clients.delete(connection, name.tenant_id, name.id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def IssueToken(
        self, request: oauth_service_pb2.IssueTokenRequest, context: _Context
    ) -> oauth_service_pb2.IssueTokenResponse:
        """See the proto. No caller is known here: everything is judged by what the request says."""
        client = await self._proved(request.client_id, request.client_secret)
        check_in_force(client.settings.expires_at, client.settings.allowed_networks, peer())
        scopes = client.settings.scopes
        if request.scopes:
            scopes = tuple(fields.scopes(request.scopes, "scopes", SCOPES))
            surplus = sorted(set(scopes) - set(client.settings.scopes))
            if surplus:
                raise fields.invalid("scopes", f"scopes has {', '.join(surplus)}, which this client does not have")
        self._usage.note(Credential.OAUTH_CLIENT, client.client_id)
        token = self._token_key.issue(client.client_id, client.token_generation, scopes, time.time())
        return oauth_service_pb2.IssueTokenResponse(
            access_token=token, token_type=TOKEN_TYPE, expires_in=Duration(seconds=LIFE_SECONDS), scopes=scopes
        )

    async def _proved(self, client_id: str, secret: str) -> OAuthClient:
        """The client with this secret. Unknown ids and wrong secrets are refused alike."""
        where = peer().block
        by_client = f"{client_id[:64]} {where}"
        self._address_failures.check(where)
        self._client_failures.check(by_client)
        client = None
        if apikeys.is_id(client_id):
            client = await self._database.transact(lambda connection: oauth_clients.find(connection, client_id))
        if not apikeys.matches(secret, client.secret if client else None, datetime.now(UTC)) or client is None:
            self._address_failures.failed(where)
            self._client_failures.failed(by_client)
            raise Refusal(Reason.UNAUTHENTICATED, "the client id or the client secret is wrong")
        return client


def _to_proto(client: OAuthClient, client_secret: str = "") -> oauth_client_pb2.OAuthClient:
    return oauth_client_pb2.OAuthClient(
        name=f"tenants/{client.tenant_id}/oauthClients/{client.client_id}",
        display_name=client.settings.display_name,
        scopes=client.settings.scopes,
        client_id=client.client_id,
        client_secret=client_secret,
        last_four=client.secret.last_four,
        allowed_networks=client.settings.allowed_networks,
        expire_time=to_proto(client.settings.expires_at),
        previous_expire_time=to_proto(credential_fields.previous_end(client.secret)),
        create_time=to_proto(client.created_at),
        update_time=to_proto(client.updated_at),
        last_used_time=to_proto(client.last_used_at),
        etag=str(client.version),
        number=client.number,
    )


def _without_secret(client: oauth_client_pb2.OAuthClient) -> oauth_client_pb2.OAuthClient:
    kept = oauth_client_pb2.OAuthClient()
    kept.CopyFrom(client)
    kept.ClearField("client_secret")
    return kept
