"""TenantService: the tree of tenants.

Rules across the tree (who is above, what holds from there) need rows that a caller does not see, so everything here
runs for the platform; what a caller may see and change is decided here, by its place in the tree.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.keyvault import KeyVault
from control.model import addresses, apikeys, fields, names
from control.model.caller import ROOT_TENANT, Access, acting_for_platform
from control.model.limits import NAMES, NO_LIMITS
from control.passwords import Passwords
from control.recalls import Recalls
from control.services import credential_fields, tenantusage, terms
from control.services.credits import TRANSFER_WAIT_SECONDS, actor
from control.services.listing import listing_of
from control.services.mutation import Mutations
from control.services.updates import check_etag, paths_of
from control.store import credentials, ledger, policy_log, removal, tenants
from control.store.tenants import Below, Contact, Settings, Suspension, Tenant, TenantKind
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

_CONTACT = ("first_name", "surname", "organization", "phone")
_OWN = frozenset({"display_name", "contact", "default_sender", *(f"contact.{name}" for name in _CONTACT)})
"""What a tenant may change of itself."""
_GIVEN = frozenset(
    {"kind", "limits", "price", "refund_policy", "shares_balance", *(f"limits.{name}" for name in NAMES)}
)
"""What only those above it may change."""
_STATES = {
    tenant_pb2.Tenant.STATE_UNSPECIFIED: None,
    tenant_pb2.Tenant.STATE_ACTIVE: False,
    tenant_pb2.Tenant.STATE_SUSPENDED: True,
}


class TenantServicer(TenantServiceServicer):
    """See the proto."""

    def __init__(
        self, database: Database, mutations: Mutations, recalls: Recalls, passwords: Passwords, vault: KeyVault
    ) -> None:
        self._database = database
        self._mutations = mutations
        self._recalls = recalls
        self._passwords = passwords
        self._vault = vault

    async def CreateTenant(
        self, request: tenant_service_pb2.CreateTenantRequest, context: _Context
    ) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        parent_id = names.tenant(request.parent, me, "parent")
        tenant_id = fields.tenant_id(request.tenant_id) if request.tenant_id else f"t-{apikeys.random_name(12)}"
        settings = _changed(Settings(), request.tenant, _OWN | _GIVEN - {"kind"})
        if request.initial_credits:
            fields.amount(request.initial_credits, "initial_credits")
            _check_moves_credits()
        username, password_hash = await self._checked_login(request)
        add_key = self._checked_key(request, tenant_id)

        async def effect(connection: Connection) -> tenant_pb2.Tenant:
            parent = await _parent(connection, me, parent_id)
            kind = terms.kind_of(request.tenant.kind, parent, "tenant.kind")
            if request.unique_display_name:
                await tenants.check_display_name(connection, parent_id, settings.display_name, tenant_id)
            made = await tenants.create(connection, tenant_id, parent, replace(settings, kind=kind))
            changes = [tenants.change(tenant_id)]
            if username:
                await credentials.create_login(connection, tenant_id, username, password_hash)
                changes.append(credentials.login_change(username))
            if add_key is not None:
                await add_key(connection)
            if request.initial_credits:
                amount = request.initial_credits
                await ledger.transfer(connection, parent_id, tenant_id, amount, "initial credits", actor())
            await policy_log.note(connection, changes)
            return (await terms.answers(connection, me, [made]))[0]

        with acting_for_platform():
            return await self._recalls.settled(
                lambda: self._mutations.run(request, tenant_pb2.Tenant, effect), TRANSFER_WAIT_SECONDS, hold=True
            )

    async def GetTenant(self, request: tenant_service_pb2.GetTenantRequest, context: _Context) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.name, me, "name")

        async def read(connection: Connection) -> tenant_pb2.Tenant:
            found = await tenants.visible(connection, me, tenant_id)
            return (await terms.answers(connection, me, [found]))[0]

        with acting_for_platform():
            return await self._database.transact(read)

    async def ListTenants(
        self, request: tenant_service_pb2.ListTenantsRequest, context: _Context
    ) -> tenant_service_pb2.ListTenantsResponse:
        """See the proto."""
        me = caller().tenant_id
        parent_id = names.tenant(request.parent, me, "parent")
        if request.state not in _STATES:
            raise fields.invalid("state", "state must be STATE_ACTIVE, STATE_SUSPENDED or left out")
        below = Below(
            parent_id,
            recursive=request.recursive,
            include_parent=request.include_parent,
            suspended=_STATES[request.state],
            kind=terms.listed_kind(request.kind, "kind"),
            display_name=fields.text(request.display_name, "display_name"),
            shares_balance=request.shares_balance if request.HasField("shares_balance") else None,
        )
        listing = listing_of(request, *below.conditions())

        async def read(connection: Connection) -> tenant_service_pb2.ListTenantsResponse:
            await tenants.visible(connection, me, parent_id)
            found, total = await tenants.page(connection, below, listing.wanted)
            shown, token = listing.cut(found, lambda tenant: tenant.tenant_id)
            answers = await terms.answers(connection, me, shown)
            return tenant_service_pb2.ListTenantsResponse(tenants=answers, next_page_token=token, total_size=total)

        with acting_for_platform():
            return await self._database.transact(read)

    async def GetTenantUsage(
        self, request: tenant_service_pb2.GetTenantUsageRequest, context: _Context
    ) -> tenant_pb2.TenantUsage:
        """See the proto."""
        return await tenantusage.usage(self._database, caller().tenant_id, request.name)

    async def UpdateTenant(
        self, request: tenant_service_pb2.UpdateTenantRequest, context: _Context
    ) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.tenant.name, me, "tenant.name")
        own = tenant_id == me and me != ROOT_TENANT
        paths = paths_of(request.update_mask, request.tenant, "tenant", _OWN | _GIVEN)
        if own and list(request.update_mask.paths) == ["*"]:
            paths = _OWN
        if own and paths & _GIVEN:
            which = ", ".join(sorted(paths & _GIVEN))
            message = f"{which} of your own tenant can be changed by a tenant above it only"
            raise Refusal(Reason.PERMISSION_DENIED, message, field="update_mask", metadata={"fields": which})

        async def change(connection: Connection, tenant: Tenant) -> Tenant:
            settings = _changed(tenant.settings, request.tenant, paths - {"kind"})
            if request.unique_display_name and tenant.parent_id is not None:
                await tenants.check_display_name(connection, tenant.parent_id, settings.display_name, tenant_id)
            if settings.shares_balance != tenant.settings.shares_balance:
                await _share(connection, tenant, settings.shares_balance)
            if "kind" in paths:
                settings = replace(settings, kind=await _kind(connection, tenant, request.tenant.kind))
            if tenant.parent_id is None and settings.limits != NO_LIMITS:
                raise Refusal(Reason.FAILED_PRECONDITION, "the operator's tenant has no limits", field="tenant.limits")
            return await tenants.update(connection, tenant_id, settings)

        return await self._change(
            request, tenant_id, request.tenant.etag, "tenant.etag", change, with_parent=request.unique_display_name
        )

    async def SuspendTenant(
        self, request: tenant_service_pb2.SuspendTenantRequest, context: _Context
    ) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = _of_others(request.name, me)
        reason = fields.text(request.reason, "reason")
        if not reason.strip():
            raise fields.invalid("reason", "reason must say why, in 1 to 200 characters; the tenant sees it")

        async def change(connection: Connection, tenant: Tenant) -> Tenant:
            _check_rank(tenant, me)
            return await tenants.set_suspension(connection, tenant_id, Suspension(reason, None, me))

        return await self._change(request, tenant_id, request.etag, "etag", change)

    async def ResumeTenant(
        self, request: tenant_service_pb2.ResumeTenantRequest, context: _Context
    ) -> tenant_pb2.Tenant:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = _of_others(request.name, me)

        async def change(connection: Connection, tenant: Tenant) -> Tenant:
            if tenant.suspension is None:
                return tenant
            _check_rank(tenant, me)
            return await tenants.set_suspension(connection, tenant_id, None)

        return await self._change(request, tenant_id, request.etag, "etag", change)

    async def DeleteTenant(self, request: tenant_service_pb2.DeleteTenantRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = _of_others(request.name, me)

        async def effect(connection: Connection) -> Empty:
            tenant = await tenants.visible(connection, me, tenant_id, lock=True)
            check_etag(request.etag, str(tenant.version))
            await removal.remove(connection, tenant)
            return Empty()

        with acting_for_platform():
            return await self._mutations.run(request, Empty, effect)

    async def _change(
        self,
        request: Any,
        tenant_id: str,
        etag: str,
        etag_field: str,
        change: Callable[[Connection, Tenant], Awaitable[Tenant]],
        *,
        with_parent: bool = False,
    ) -> tenant_pb2.Tenant:
        """Change a tenant, which is locked, and so is its parent if wanted; tell the nodes, and show it."""
        me = caller().tenant_id

        async def effect(connection: Connection) -> tenant_pb2.Tenant:
            if with_parent:
                place = await tenants.visible(connection, me, tenant_id)
                await tenants.lock(connection, place.path[-2:])
            tenant = await tenants.visible(connection, me, tenant_id, lock=True)
            check_etag(etag, str(tenant.version), etag_field)
            changed = await change(connection, tenant)
            answer = (await terms.answers(connection, me, [changed]))[0]
            if changed.version != tenant.version:
                await policy_log.note(connection, [tenants.change(tenant_id)])
            return answer

        with acting_for_platform():
            return await self._mutations.run(request, tenant_pb2.Tenant, effect)

    async def _checked_login(self, request: tenant_service_pb2.CreateTenantRequest) -> tuple[str, str]:
        """Username and password hash of the initial login; empty if there is none."""
        if not request.HasField("initial_login"):
            return "", ""
        credential_fields.require_unlimited_caller()
        username = fields.username(request.initial_login.username, "initial_login.username")
        password = fields.password(request.initial_login.password, "initial_login.password")
        return username, await self._passwords.hash(password)

    def _checked_key(
        self, request: tenant_service_pb2.CreateTenantRequest, tenant_id: str
    ) -> Callable[[Connection], Awaitable[object]] | None:
        """What makes the initial API key; None if there is to be none."""
        if not request.HasField("initial_api_key"):
            return None
        if not caller().may(Access.WRITE, "credentials"):
            message = "initial_api_key: these credentials do not have the scope credentials; leave it out"
            raise Refusal(Reason.PERMISSION_DENIED, message, field="initial_api_key")
        chosen = credential_fields.new_settings(request.initial_api_key, "initial_api_key")
        credential_fields.require_grantable(chosen.scopes)
        key = apikeys.generate()
        sealed = self._vault.seal(key, tenant_id) if request.initial_api_key.recoverable else None
        return lambda connection: credentials.create_api_key(connection, tenant_id, key, chosen, sealed)


def _check_moves_credits() -> None:
    """Refuse a caller that is limited to scopes without that of credits."""
    if not caller().may(Access.RESELL, "credits"):
        message = "initial_credits: these credentials do not have the scope credits; leave it out"
        raise Refusal(Reason.PERMISSION_DENIED, message, field="initial_credits", metadata={"scopes": "credits"})


def _of_others(name: str, me: str) -> str:
    """The id of a tenant that is not the caller's own."""
    tenant_id = names.tenant(name, me, "name")
    if tenant_id == me:
        raise Refusal(Reason.PERMISSION_DENIED, "this can be done by a tenant above it only", field="name")
    return tenant_id


def _check_rank(tenant: Tenant, me: str) -> None:
    """A suspension can be changed by whoever made it and by those above."""
    by = tenant.suspension.by if tenant.suspension else ""
    if by in tenant.path and tenant.path.index(by) < tenant.path.index(me):
        message = "a tenant above yours suspended it, and can alone change that"
        raise Refusal(Reason.PERMISSION_DENIED, message, field="name")


async def _parent(connection: Connection, me: str, parent_id: str) -> Tenant:
    """The tenant that is to get another below it, locked, with room for one. FAILED_PRECONDITION if it has none."""
    await tenants.visible(connection, me, parent_id)
    line = await tenants.line(connection, parent_id)
    await tenants.lock(connection, {parent_id} | {above.tenant_id for above in line if _tenant_limit(above)})
    parent = await tenants.visible(connection, me, parent_id)
    if parent.kind is TenantKind.ACCOUNT:
        message = f'tenant "{parent_id}" is an account and has no tenants below it; make it a reseller first'
        raise Refusal(Reason.FAILED_PRECONDITION, message, field="parent", metadata={"parent": parent_id})
    for above in line:
        limit = above.limits.max_tenants
        if limit is not None and await tenants.count_below(connection, above.tenant_id, at_most=limit) >= limit:
            message = "the limit max_tenants of the parent, or of a tenant above it, is reached"
            raise Refusal(Reason.FAILED_PRECONDITION, message, field="parent", metadata={"limit": "max_tenants"})
    return parent


def _tenant_limit(tenant: Tenant) -> bool:
    return tenant.limits.max_tenants is not None


async def _share(connection: Connection, tenant: Tenant, shares: bool) -> None:
    """Have a tenant above pay, or no longer. FAILED_PRECONDITION for the operator, and while there are credits."""
    if tenant.parent_id is None:
        raise Refusal(Reason.FAILED_PRECONDITION, "there is no tenant above the operator's", field="tenant")
    has = (await ledger.lock(connection, [tenant.tenant_id]))[tenant.tenant_id]
    if has.spendable:
        message = (
            f'tenant "{tenant.tenant_id}" has {has.spendable} credits ({has.reserved} on lease) and cannot share a'
            " balance; transfer them first"
        )
        metadata = {"tenant": tenant.tenant_id, "credits": str(has.spendable), "reserved": str(has.reserved)}
        raise Refusal(Reason.FAILED_PRECONDITION, message, field="tenant.shares_balance", metadata=metadata)
    await tenants.share_balance(connection, tenant.tenant_id, shares)


async def _kind(connection: Connection, tenant: Tenant, proto: tenant_pb2.Tenant.Kind.ValueType) -> TenantKind:
    if tenant.parent_id is None:
        raise Refusal(Reason.FAILED_PRECONDITION, "the operator's tenant stays what it is", field="tenant.kind")
    parent = (await tenants.some(connection, [tenant.parent_id]))[0]
    kind = terms.kind_of(proto, parent, "tenant.kind")
    if kind is TenantKind.ACCOUNT and await tenants.count_below(connection, tenant.tenant_id, at_most=1):
        message = f'tenant "{tenant.tenant_id}" has tenants below it and cannot become an account'
        raise Refusal(Reason.FAILED_PRECONDITION, message, field="tenant.kind", metadata={"tenant": tenant.tenant_id})
    return kind


def _changed(had: Settings, given: tenant_pb2.Tenant, paths: frozenset[str]) -> Settings:
    """Settings with the named fields as given, and checked."""
    changed = had
    if "display_name" in paths:
        changed = replace(changed, display_name=fields.text(given.display_name, "tenant.display_name"))
    if "default_sender" in paths:
        changed = replace(changed, default_sender=_checked_sender(given.default_sender))
    contact = [name for name in _CONTACT if "contact" in paths or f"contact.{name}" in paths]
    if contact:
        checked = _checked_contact(given.contact)
        changed = replace(
            changed, contact=replace(changed.contact, **{name: getattr(checked, name) for name in contact})
        )
    if "shares_balance" in paths:
        changed = replace(changed, shares_balance=given.shares_balance)
    limited = [name for name in NAMES if "limits" in paths or f"limits.{name}" in paths]
    if limited:
        wanted = terms.limits_of(given.limits, "tenant.limits")
        changed = replace(changed, limits=terms.with_limits(changed.limits, wanted, limited))
    if "price" in paths:
        price = terms.price_of(given.price, "tenant.price") if given.HasField("price") else None
        changed = replace(changed, price=price)
    if "refund_policy" in paths:
        told = given.HasField("refund_policy")
        refunds = terms.refunds_of(given.refund_policy, "tenant.refund_policy") if told else None
        changed = replace(changed, refunds=refunds)
    return changed


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
