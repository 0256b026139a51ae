"""SmtpProviderService: which way a tenant's mail goes out."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import smtp_provider_pb2, smtp_provider_service_pb2
from barua.control.v1.smtp_provider_service_pb2_grpc import SmtpProviderServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import egress, fields, names
from control.model.caller import Caller, Role, acting_for_platform
from control.model.quotas import Use, day_of, hour_of
from control.sealing import Sealer
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.smtpcheck import SmtpChecker, Stage, Target
from control.store import providers, tenants
from control.store.providers import BUILT_IN, Provider
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]
_Proto = smtp_provider_pb2.SmtpProvider

SEALED_KIND = "smtpProviders"
"""The part of the additional data of a sealed password between tenant and provider."""

_TLS = {
    _Proto.TLS_UNSPECIFIED: "starttls_required",
    _Proto.TLS_IMPLICIT: "implicit",
    _Proto.TLS_STARTTLS_REQUIRED: "starttls_required",
    _Proto.TLS_STARTTLS_IF_OFFERED: "starttls_if_offered",
    _Proto.TLS_NONE: "none",
}
_TLS_PROTOS = {text: proto for proto, text in _TLS.items()}
_STAGES = {
    stage: smtp_provider_service_pb2.CheckSmtpProviderResponse.Stage.Value(f"STAGE_{stage.name}") for stage in Stage
}
_ANY_PROVIDER = frozenset({"display_name", "hourly_limit", "daily_limit", "over_limit", "shared"})
_SERVER = frozenset(
    {"host", "port", "tls", "username", "password", "allow_private_addresses", "allow_invalid_certificate"}
)
_NEEDS_PASSWORD = ("host", "port", "tls", "allow_invalid_certificate")
"""What says to whom, and how well guarded, the password is sent."""


class SmtpProviderServicer(SmtpProviderServiceServicer):
    """See the proto. ``allow_private``: an option lets any provider be on a private address."""

    def __init__(
        self, database: Database, mutations: Mutations, sealer: Sealer, checker: SmtpChecker, *, allow_private: bool
    ) -> None:
        self._database = database
        self._mutations = mutations
        self._sealer = sealer
        self._checker = checker
        self._allow_private = allow_private

    async def CreateSmtpProvider(
        self, request: smtp_provider_service_pb2.CreateSmtpProviderRequest, context: _Context
    ) -> _Proto:
        """See the proto."""
        who = caller()
        tenant_id = names.tenant(request.parent, who.tenant_id, "parent")
        provider_id = egress.identifier(request.smtp_provider_id, "smtp_provider_id")
        if provider_id == BUILT_IN:
            raise fields.invalid("smtp_provider_id", f'every tenant has "{BUILT_IN}" already; update that one')
        empty = Provider(tenant_id, provider_id, is_default=request.make_default)
        made = self._changed(who, empty, request.smtp_provider, _ANY_PROVIDER | _SERVER)

        async def effect(connection: Connection) -> _Proto:
            await tenants.visible(connection, who.tenant_id, tenant_id, lock=True)
            return _to_proto(await providers.create(connection, made))

        return await self._mutations.run(request, _Proto, effect)

    async def GetSmtpProvider(
        self, request: smtp_provider_service_pb2.GetSmtpProviderRequest, context: _Context
    ) -> _Proto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "smtpProviders", me)

        async def read(connection: Connection) -> _Proto:
            provider = await _find(connection, me, name)
            uses = await _uses(connection, name.tenant_id)
            return _to_proto(provider, uses.get(provider.provider_id))

        return await self._database.transact(read)

    async def ListSmtpProviders(
        self, request: smtp_provider_service_pb2.ListSmtpProvidersRequest, context: _Context
    ) -> smtp_provider_service_pb2.ListSmtpProvidersResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", tenant_id)

        async def read(connection: Connection) -> tuple[list[Provider], dict[str, Use]]:
            await tenants.visible(connection, me, tenant_id)
            return (
                await providers.page(connection, tenant_id, page.after, page.limit),
                await _uses(connection, tenant_id),
            )

        everything, uses = await self._database.transact(read)
        found, token = page.cut(everything, lambda provider: provider.provider_id)
        return smtp_provider_service_pb2.ListSmtpProvidersResponse(
            smtp_providers=[_to_proto(provider, uses.get(provider.provider_id)) for provider in found],
            next_page_token=token,
        )

    async def UpdateSmtpProvider(
        self, request: smtp_provider_service_pb2.UpdateSmtpProviderRequest, context: _Context
    ) -> _Proto:
        """See the proto."""
        who = caller()
        wanted = request.smtp_provider
        name = names.child(wanted.name, "smtpProviders", who.tenant_id, "smtp_provider.name")
        updatable = _ANY_PROVIDER if name.id == BUILT_IN else _ANY_PROVIDER | _SERVER
        paths = paths_of(request.update_mask, wanted, "smtp_provider", updatable)

        async def effect(connection: Connection) -> _Proto:
            await tenants.visible(connection, who.tenant_id, name.tenant_id)
            await providers.lock(connection, name.tenant_id)
            current = await providers.get(connection, name.tenant_id, name.id)
            check_etag(wanted.etag, str(current.version), "smtp_provider.etag")
            changed = self._changed(who, current, wanted, paths)
            updated = await providers.update(connection, changed)
            return _to_proto(updated, (await _uses(connection, name.tenant_id)).get(name.id))

        return await self._mutations.run(request, _Proto, effect)

    async def DeleteSmtpProvider(
        self, request: smtp_provider_service_pb2.DeleteSmtpProviderRequest, context: _Context
    ) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "smtpProviders", me)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await providers.lock(connection, name.tenant_id)
            current = await providers.get(connection, name.tenant_id, name.id)
            if current.built_in:
                message = f'"{BUILT_IN}" is the MTA itself and stays; make another provider the default instead'
                raise Refusal(Reason.FAILED_PRECONDITION, message, metadata={"smtp_provider": BUILT_IN})
            check_etag(request.etag, str(current.version))
            await providers.delete(connection, current)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def SetDefaultSmtpProvider(
        self, request: smtp_provider_service_pb2.SetDefaultSmtpProviderRequest, context: _Context
    ) -> _Proto:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        chosen = egress.identifier(request.smtp_provider_id, "smtp_provider_id") if request.smtp_provider_id else ""

        async def effect(connection: Connection) -> _Proto:
            tenant = await tenants.visible(connection, me, tenant_id)
            await providers.set_default(connection, tenant_id, chosen)
            if chosen:
                return _to_proto(await providers.get(connection, tenant_id, chosen))
            return _in_force(tenant_id, await providers.default_of(connection, tenant.path))

        if chosen:
            return await self._mutations.run(request, _Proto, effect)
        with acting_for_platform():  # the default of the tenants above is theirs to see, and ours to inherit
            return await self._mutations.run(request, _Proto, effect)

    async def CheckSmtpProvider(
        self, request: smtp_provider_service_pb2.CheckSmtpProviderRequest, context: _Context
    ) -> smtp_provider_service_pb2.CheckSmtpProviderResponse:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "smtpProviders", me)
        provider = await self._database.transact(lambda connection: _find(connection, me, name))
        if provider.built_in:
            message = f'"{BUILT_IN}" is the MTA itself; there is no server to check'
            raise Refusal(Reason.FAILED_PRECONDITION, message, metadata={"smtp_provider": BUILT_IN})
        finding = await self._checker.check(self._target(provider))
        return smtp_provider_service_pb2.CheckSmtpProviderResponse(
            ok=finding.stage is Stage.READY and not finding.text,
            stage=_STAGES[finding.stage],
            code=finding.code,
            text=finding.text,
            remote_address=finding.remote_address,
            tls_version=finding.tls_version,
            auth_mechanisms=finding.mechanisms,
        )

    def _target(self, provider: Provider) -> Target:
        sealed, password = provider.sealed_password, ""
        if sealed is not None:
            password = self._sealer.open(sealed, provider.tenant_id, SEALED_KIND, provider.provider_id).decode()
        return Target(
            host=provider.host,
            port=provider.port,
            tls=provider.tls,
            username=provider.username,
            password=password,
            allow_private=self._allow_private or provider.allow_private_addresses,
            allow_invalid_certificate=provider.allow_invalid_certificate,
        )

    def _changed(self, who: Caller, current: Provider, wanted: _Proto, paths: Collection[str]) -> Provider:
        """The provider with those fields of ``wanted`` that ``paths`` names, checked."""
        changed = _with_settings(current, wanted, paths)
        if current.built_in:
            if changed.waits and not changed.limited:
                raise fields.invalid("smtp_provider.over_limit", "over_limit is about limits; set one of them too")
            return changed
        operator = who.role is Role.OPERATOR
        changed = _with_server(changed, wanted, paths, operator=operator, allow_private=self._allow_private)
        if not operator:
            _check_allowances(current, changed)
        if changed.tls == "none" and not operator and current.tls != "none" and not egress.is_loopback(changed.host):
            message = "smtp_provider.tls NONE sends mail in clear text; only the operator may set it"
            raise Refusal(Reason.PERMISSION_DENIED, message, field="smtp_provider.tls")
        return self._with_credentials(current, changed, wanted, paths)

    def _with_credentials(
        self, current: Provider, changed: Provider, wanted: _Proto, paths: Collection[str]
    ) -> Provider:
        if "username" in paths:
            changed = replace(changed, username=egress.credential(wanted.username, "smtp_provider.username"))
        if wanted.password and "password" in paths:
            if not changed.username:
                raise fields.invalid("smtp_provider.username", "smtp_provider.password needs a username")
            password = egress.credential(wanted.password, "smtp_provider.password")
            sealed = self._sealer.seal(password.encode(), changed.tenant_id, SEALED_KIND, changed.provider_id)
            return replace(changed, sealed_password=sealed)
        if not changed.username:
            return replace(changed, sealed_password=None)
        if changed.sealed_password is None:
            raise fields.invalid("smtp_provider.password", "smtp_provider.username needs a password")
        moved = [name for name in _NEEDS_PASSWORD if getattr(changed, name) != getattr(current, name)]
        if moved:
            raise fields.invalid(
                "smtp_provider.password",
                f"smtp_provider.{moved[0]} changes: give the password again, it is not sent anywhere else on its own",
            )
        return changed


def _with_settings(current: Provider, wanted: _Proto, paths: Collection[str]) -> Provider:
    """What every provider has."""
    changed = current
    if "display_name" in paths:
        changed = replace(changed, display_name=fields.text(wanted.display_name, "smtp_provider.display_name"))
    if "hourly_limit" in paths:
        changed = replace(changed, hourly_limit=egress.limit(wanted.hourly_limit, "smtp_provider.hourly_limit"))
    if "daily_limit" in paths:
        changed = replace(changed, daily_limit=egress.limit(wanted.daily_limit, "smtp_provider.daily_limit"))
    if "over_limit" in paths:
        if wanted.over_limit not in _Proto.OverLimit.values():
            raise fields.invalid("smtp_provider.over_limit", f"smtp_provider.over_limit {wanted.over_limit} is unknown")
        changed = replace(changed, waits=wanted.over_limit == _Proto.OVER_LIMIT_WAIT)
    if "shared" in paths:
        changed = replace(changed, shared=wanted.shared)
    return changed


def _with_server(
    changed: Provider, wanted: _Proto, paths: Collection[str], *, operator: bool, allow_private: bool
) -> Provider:
    """Where a smart host is, and how it is talked to."""
    for name in ("allow_private_addresses", "allow_invalid_certificate"):
        if name in paths and getattr(wanted, name) != getattr(changed, name):
            if not operator:
                message = f"smtp_provider.{name} is for the operator to set"
                raise Refusal(Reason.PERMISSION_DENIED, message, field=f"smtp_provider.{name}")
            changed = replace(changed, **{name: getattr(wanted, name)})
    if "tls" in paths:
        if wanted.tls not in _TLS:
            raise fields.invalid("smtp_provider.tls", f"smtp_provider.tls {wanted.tls} is unknown")
        changed = replace(changed, tls=_TLS[wanted.tls])
    if "host" in paths or not changed.allow_private_addresses:
        private = allow_private or changed.allow_private_addresses
        text = wanted.host if "host" in paths else changed.host
        changed = replace(changed, host=egress.host(text, "smtp_provider.host", allow_private=private))
    if "port" in paths or not changed.port:
        implicit = changed.tls == "implicit"
        port = egress.port(wanted.port, "smtp_provider.port", implicit_tls=implicit, any_port=operator or allow_private)
        changed = replace(changed, port=port)
    return changed


def _check_allowances(current: Provider, changed: Provider) -> None:
    """Refuse to use for another server what the operator allowed for one."""
    if (changed.host, changed.port) == (current.host, current.port):
        return
    for name in ("allow_private_addresses", "allow_invalid_certificate"):
        if getattr(changed, name):
            field = f"smtp_provider.{'host' if changed.host != current.host else 'port'}"
            message = f"{field}: the operator set {name} for {current.host}:{current.port} alone; ask for the change"
            raise Refusal(Reason.PERMISSION_DENIED, message, field=field)
    if changed.tls == "none" and current.tls == "none" and not egress.is_loopback(changed.host):
        message = "smtp_provider.tls NONE sends mail in clear text; to another server only the operator may do that"
        raise Refusal(Reason.PERMISSION_DENIED, message, field="smtp_provider.tls")


async def _find(connection: Connection, me: str, name: names.ChildName) -> Provider:
    await tenants.visible(connection, me, name.tenant_id)
    return await providers.get(connection, name.tenant_id, name.id)


async def _uses(connection: Connection, tenant_id: str) -> dict[str, Use]:
    now = datetime.now(UTC)
    return await providers.uses(connection, tenant_id, hour_of(now), day_of(now))


def _in_force(tenant_id: str, provider: Provider) -> _Proto:
    """A default, whoever it belongs to: of another tenant's no more than its name."""
    if provider.tenant_id == tenant_id:
        return _to_proto(provider)
    return _Proto(
        name=f"tenants/{provider.tenant_id}/smtpProviders/{provider.provider_id}", display_name=provider.display_name
    )


def _to_proto(provider: Provider, use: Use | None = None) -> _Proto:
    return _Proto(
        name=f"tenants/{provider.tenant_id}/smtpProviders/{provider.provider_id}",
        display_name=provider.display_name,
        host=provider.host,
        port=provider.port,
        tls=_Proto.TLS_UNSPECIFIED if provider.built_in else _TLS_PROTOS[provider.tls],
        username=provider.username,
        hourly_limit=provider.hourly_limit,
        daily_limit=provider.daily_limit,
        over_limit=_Proto.OVER_LIMIT_WAIT if provider.waits else _Proto.OVER_LIMIT_REFUSE,
        shared=provider.shared,
        allow_private_addresses=provider.allow_private_addresses,
        allow_invalid_certificate=provider.allow_invalid_certificate,
        is_default=provider.is_default,
        password_set=provider.sealed_password is not None,
        used_this_hour=use.hour if use is not None else 0,
        used_today=use.day if use is not None else 0,
        create_time=to_proto(provider.created_at),
        update_time=to_proto(provider.updated_at),
        etag=str(provider.version),
    )
