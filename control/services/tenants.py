"""TenantService: the tree of tenants."""

from typing import Any

import grpc

from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import addresses, apikeys, fields, names
from control.passwords import Passwords
from control.recalls import Recalls
from control.services.credits import TRANSFER_WAIT_SECONDS
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.store import credentials, ledger, policy_log, tenants
from control.store.tenants import Contact, Tenant

_Context = grpc.aio.ServicerContext[Any, Any]


class TenantServicer(TenantServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, recalls: Recalls, passwords: Passwords) -> None:
        self._database = database
        self._mutations = mutations
        self._recalls = recalls
        self._passwords = passwords

    async def CreateTenant(
        self, request: tenant_service_pb2.CreateTenantRequest, context: _Context
    ) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        parent_id = names.tenant(request.parent, me, "parent")
        tenant_id = fields.tenant_id(request.tenant_id) if request.tenant_id else f"t-{apikeys.random_name(12)}"
        display_name = fields.text(request.tenant.display_name, "tenant.display_name")
        contact = _checked_contact(request.tenant.contact)
        default_sender = _checked_sender(request.tenant.default_sender)
        if request.initial_credits:
            fields.amount(request.initial_credits, "initial_credits")
        username, password_hash = await self._checked_login(request)

        async def effect(connection: Connection) -> tenant_pb2.Tenant:
            parent = await tenants.visible(connection, me, parent_id)
            made = await tenants.create(connection, tenant_id, parent, display_name, contact, default_sender)
            changes = [tenants.change(tenant_id)]
            if username:
                await credentials.create_login(connection, tenant_id, username, password_hash)
                changes.append(credentials.login_change(username))
            if request.initial_credits:
                await ledger.transfer(connection, parent_id, tenant_id, request.initial_credits, "initial credits")
            await policy_log.note(connection, changes)
            return _to_proto(made)

        return await self._recalls.settled(
            lambda: self._mutations.run(request, tenant_pb2.Tenant, effect), TRANSFER_WAIT_SECONDS, hold=True
        )

    async def GetTenant(self, request: tenant_service_pb2.GetTenantRequest, context: _Context) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.name, me, "name")
        return _to_proto(await self._database.transact(lambda c: tenants.visible(c, me, tenant_id)))

    async def ListTenants(
        self, request: tenant_service_pb2.ListTenantsRequest, context: _Context
    ) -> tenant_service_pb2.ListTenantsResponse:
        """See the proto."""
        me = caller().tenant_id
        parent_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", parent_id)

        async def read(connection: Connection) -> list[Tenant]:
            await tenants.visible(connection, me, parent_id)
            return await tenants.children(connection, parent_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda tenant: tenant.tenant_id)
        return tenant_service_pb2.ListTenantsResponse(tenants=map(_to_proto, found), next_page_token=token)

    async def _checked_login(self, request: tenant_service_pb2.CreateTenantRequest) -> tuple[str, str]:
        """Username and password hash of the initial login; empty if there is none."""
        if not request.HasField("initial_login"):
            return "", ""
        username = fields.username(request.initial_login.username, "initial_login.username")
        password = fields.password(request.initial_login.password, "initial_login.password")
        return username, await self._passwords.hash(password)


def _checked_contact(contact: tenant_pb2.Contact) -> Contact:
    return Contact(
        first_name=fields.text(contact.first_name, "tenant.contact.first_name"),
        surname=fields.text(contact.surname, "tenant.contact.surname"),
        organization=fields.text(contact.organization, "tenant.contact.organization"),
        phone=fields.phone(contact.phone, "tenant.contact.phone"),
    )


def _checked_sender(sender: str) -> str:
    if sender:
        addresses.canonical_address(sender, "tenant.default_sender")
    return sender


def _to_proto(tenant: Tenant) -> tenant_pb2.Tenant:
    contact = tenant.contact
    return tenant_pb2.Tenant(
        name=f"tenants/{tenant.tenant_id}",
        parent=f"tenants/{tenant.parent_id}" if tenant.parent_id else "",
        display_name=tenant.display_name,
        contact=tenant_pb2.Contact(
            first_name=contact.first_name,
            surname=contact.surname,
            organization=contact.organization,
            phone=contact.phone,
        ),
        state=tenant_pb2.Tenant.STATE_SUSPENDED if tenant.suspended else tenant_pb2.Tenant.STATE_ACTIVE,
        default_sender=tenant.default_sender,
        create_time=to_proto(tenant.created_at),
        update_time=to_proto(tenant.updated_at),
        etag=str(tenant.version),
    )
