"""Sub-accounts of an account: the default one, which is the account's own tenant, and the tenants directly below it.

A new one pays from the account's balance and gets an API key for the ``/subaccount`` paths, which can be read again
here: its secret is kept. Of the default sub-account the first such key is shown, if its operator has made one.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import credential_pb2, credential_service_pb2, tenant_pb2, tenant_service_pb2

from api_bridge import credentials, idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Deleted, Label
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from mta.runtime.refusals import Reason, Refusal

WHAT = "Sub-account"
DEFAULT, CUSTOM = 0, 1
"""Types."""
SCOPES = (
    "domains",
    "egress:read",
    "mail",
    "messages:read",
    "senders",
    "statistics:read",
    "suppressions",
    "templates:read",
    "validation",
)
"""What the key of a new sub-account may do; the account's key has to have all of it."""
KEY_NAME = "SendPost sub-account"
MAX_KEYS = 100_000
READ_TOGETHER = 50
"""Sub-accounts in a list whose keys are looked up one by one; for more, those of all sub-accounts are read."""
KNOWN_SECONDS, KNOWN_PAUSE_SECONDS = 3.0, 0.05
KNOWN_TIMES = 3
"""Answers of workers that know a new key, before a client gets it."""
READS_AT_ONCE = 8
"""Look-ups of keys for one list."""

_FIELDS = {"tenant.display_name": "name"}


class NewSubAccount(Struct):
    """Body of create."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]


class SubAccountChange(Struct):
    """Body of update."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class SmtpAuth(Struct):
    """A login for SMTP; there are none here, and passwords are never told."""

    id: int
    username: str


class SubAccount(Struct):
    """A sub-account, in the words of both contracts."""

    id: int
    accountId: int  # noqa: N815  # the name in the JSON
    name: str
    apiKey: str  # noqa: N815
    type: int
    isPlus: bool  # noqa: N815
    labels: list[Label]
    blocked: bool
    created: int
    smtpAuths: list[SmtpAuth]  # noqa: N815
    created_by: None
    updated_by: None
    blocked_at: int
    block_reason: str
    hb_exempt: bool
    generate_weekly_report: bool
    handlers: list[str]


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/account/subaccount", "/account/subaccount/{subaccount_id}", Key.ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_subaccounts",
            "Sub-accounts with their keys, the default one first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[SubAccount],
        ),
        Operation(
            "POST",
            path,
            "create_subaccount",
            "Make a sub-account with a key.",
            _create,
            key,
            body=NewSubAccount,
            answer=SubAccount,
            status=201,
            failures=(403, 409),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", one, "get_subaccount", "Read a sub-account.", _get, key, answer=SubAccount),
        Operation(
            "PUT",
            one,
            "update_subaccount",
            "Rename a sub-account.",
            _update,
            key,
            body=SubAccountChange,
            answer=SubAccount,
            failures=(403,),
        ),
        Operation(
            "DELETE",
            one,
            "delete_subaccount",
            "Delete a sub-account and everything of it; the default one cannot go.",
            _delete,
            key,
            answer=Deleted,
            unknown_status=406,
        ),
    ]


async def _list(call: Call) -> list[SubAccount]:
    request = tenant_service_pb2.ListTenantsRequest(
        parent="tenants/me", search=call.query["search"] or "", include_parent=True, order_by="number"
    )
    tenants = await call.page("tenants", "ListTenants", request)
    if len(tenants) > READ_TOGETHER:
        keys = await _all_api_keys(call)
        return [await _sub_account(call, tenant, keys.get(tenant.name, "")) for tenant in tenants]
    turns = asyncio.Semaphore(READS_AT_ONCE)

    async def shown(tenant: tenant_pb2.Tenant) -> SubAccount:
        async with turns:
            return await _sub_account(call, tenant)

    return list(await asyncio.gather(*map(shown, tenants)))


async def _create(call: Call) -> SubAccount:
    body = await call.body(NewSubAccount)
    request = tenant_service_pb2.CreateTenantRequest(
        parent="tenants/me",
        tenant=tenant_pb2.Tenant(
            display_name=_name(body.name), kind=tenant_pb2.Tenant.KIND_ACCOUNT, shares_balance=True
        ),
        initial_api_key=credential_pb2.ApiKey(display_name=KEY_NAME, scopes=SCOPES, recoverable=True),
        unique_display_name=True,
        request_id=idempotency.request_id(call.request),
    )
    made = await _sub_account(call, await _asked(call, "CreateTenant", request))
    await _until_known(call, made.apiKey)
    return made


async def _get(call: Call) -> SubAccount:
    return await _sub_account(call, await _read(call))


async def _update(call: Call) -> SubAccount:
    tenant, body = await _read(call), await call.body(SubAccountChange)
    if not isinstance(body.name, str):
        return await _sub_account(call, tenant)
    request = tenant_service_pb2.UpdateTenantRequest(
        tenant=tenant_pb2.Tenant(name=tenant.name, display_name=_name(body.name)), unique_display_name=True
    )
    request.update_mask.paths.append("display_name")
    return await _sub_account(call, await _asked(call, "UpdateTenant", request))


async def _delete(call: Call) -> Deleted:
    tenant = await _read(call)
    if await _type(call, tenant) == DEFAULT:
        raise errors.SendPostProblem(
            406, "The default sub-account cannot be deleted.", code="invalid_request", kind="invalid_request_error"
        )
    await call.ask("tenants", "DeleteTenant", tenant_service_pb2.DeleteTenantRequest(name=tenant.name))
    return Deleted(tenant.number, "Sub-account deleted.")


async def _until_known(call: Call, key: str) -> None:
    """Wait until the workers of the MTA know a new key, which control tells them at once; not for long."""
    backend, authorization = call.dialect.parts.backend, credentials.api_key(key)
    until, known = time.monotonic() + KNOWN_SECONDS, 0
    while authorization is not None and known < KNOWN_TIMES and time.monotonic() < until:
        try:
            await backend.check_key(authorization, call.peer)
            known += 1  # they are asked in turn
        except Refusal as refusal:
            if refusal.reason is not Reason.UNAUTHENTICATED:
                return
            known = 0
            await asyncio.sleep(KNOWN_PAUSE_SECONDS)


async def _asked(call: Call, method: str, request: object) -> tenant_pb2.Tenant:
    try:
        tenant: tenant_pb2.Tenant = await answers.ask(call, "tenants", method, request, _FIELDS)
    except Refusal as refusal:
        if refusal.reason is Reason.ALREADY_EXISTS:
            raise errors.exists("A sub-account with this name exists already.", "name") from None
        raise
    return tenant


async def _read(call: Call) -> tenant_pb2.Tenant:
    return await call.dialect.accounts.sub_account(call, call.number("subaccount_id", WHAT))


async def _type(call: Call, tenant: tenant_pb2.Tenant) -> int:
    return DEFAULT if tenant.name == (await call.dialect.accounts.own(call)).name else CUSTOM


def _name(given: str) -> str:
    name = given.strip()
    if not name:
        raise errors.invalid_body("name", "name must not be blank.")
    return name


async def _api_key(call: Call, tenant: tenant_pb2.Tenant) -> str:
    """The first key of a sub-account that can be read and sends; empty: there is none."""
    request = credential_service_pb2.ListApiKeysRequest(
        parent=tenant.name, view=credential_pb2.API_KEY_VIEW_WITH_SECRET, order_by="number"
    )
    keys = await _read_keys(call, 100, request)
    return next((key.secret_key for key in keys if key.secret_key and "mail" in key.scopes), "")


async def _read_keys(
    call: Call, count: int, request: credential_service_pb2.ListApiKeysRequest
) -> list[credential_pb2.ApiKey]:
    """Keys with their secrets; none for an account key that may look at sub-accounts, but not at keys."""
    try:
        return await call.first(count, "credentials", "ListApiKeys", request)
    except Refusal as refusal:
        if refusal.reason is Reason.PERMISSION_DENIED:
            return []
        raise


async def _all_api_keys(call: Call) -> dict[str, str]:
    """As ``_api_key``, for all sub-accounts by name."""
    request = credential_service_pb2.ListApiKeysRequest(
        parent="tenants/me",
        include_descendants=True,
        view=credential_pb2.API_KEY_VIEW_WITH_SECRET,
        order_by="number",
        page_size=1000,
    )
    found: dict[str, str] = {}
    for key in await _read_keys(call, MAX_KEYS, request):
        if key.secret_key and "mail" in key.scopes:
            found.setdefault(key.name.partition("/apiKeys/")[0], key.secret_key)
    return found


async def _sub_account(call: Call, tenant: tenant_pb2.Tenant, api_key: str | None = None) -> SubAccount:
    account = await call.dialect.accounts.own(call)
    suspension = tenant.suspension if tenant.HasField("suspension") else None
    return SubAccount(
        id=tenant.number,
        accountId=account.number,
        name=tenant.display_name or tenant.name.removeprefix("tenants/"),
        apiKey=await _api_key(call, tenant) if api_key is None else api_key,
        type=DEFAULT if tenant.name == account.name else CUSTOM,
        isPlus=False,
        labels=[],
        blocked=tenant.state == tenant_pb2.Tenant.STATE_SUSPENDED,
        created=times.nanoseconds(tenant.create_time),
        smtpAuths=[],
        created_by=None,
        updated_by=None,
        blocked_at=times.nanoseconds(suspension.start_time) if suspension else 0,
        block_reason=suspension.reason if suspension else "",
        hb_exempt=False,
        generate_weekly_report=False,
        handlers=[],
    )
