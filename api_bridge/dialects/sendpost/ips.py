"""IP addresses of an account: sources that the operator has allotted to it, or to all.

In the legacy contract an IP has legacy fields alone: a strict client refuses the names of v1.
"""

import ipaddress
from collections.abc import Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from barua.control.v1 import pool_pb2, pool_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Deleted, Label
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from mta.runtime.refusals import Reason, Refusal

WHAT = "IP"
SHARED, DEDICATED = 0, 1
"""Types of IPs and pools."""
WARMING, NORMAL = 0, 1
"""States."""

_FIELDS = {"addresses": "ips"}


class IpChange(Struct):
    """Body of update."""

    autoWarmupEnabled: bool  # noqa: N815  # the name in the JSON


class Allocation(Struct):
    """Body of allocate. ``overflowPool`` is of the legacy contract, and without effect."""

    ips: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(min_length=1, max_length=100)]
    autoWarmupEnabled: bool | None = None  # noqa: N815
    overflowPool: bool | None = None  # noqa: N815


class Ip(Struct):
    """An IP; fields of the other contract are left out."""

    id: int
    type: int
    labels: list[Label]
    state: int
    created: int
    publicIp: str | UnsetType = UNSET  # noqa: N815
    reverseDnsHostname: str | UnsetType = UNSET  # noqa: N815
    autoWarmupEnabled: bool | UnsetType = UNSET  # noqa: N815
    publicIP: str | UnsetType = UNSET  # noqa: N815
    reverseDNSHostname: str | UnsetType = UNSET  # noqa: N815


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/account/ip", "/account/ip/{ip_id}", Key.ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_ips",
            "IPs of the account.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[Ip],
        ),
        *(
            Operation(
                method,
                f"{path}/allocate",
                f"{name}_ip",
                "Take IPs to use that are set aside for the account; the answer has the first of them.",
                _allocate,
                key,
                body=Allocation,
                answer=Ip,
                failures=(404, 409),
                headers=(IDEMPOTENCY_KEY,),
            )
            for method, name in (("PUT", "allocate"), ("POST", "allocate_new"))
        ),
        Operation("GET", one, "get_ip", "Read an IP.", _get, key, answer=Ip),
        Operation("PUT", one, "update_ip", "Switch warm-up on or off.", _update, key, body=IpChange, answer=Ip),
        Operation("DELETE", one, "delete_ip", "Give an IP up that is in no pool.", _delete, key, answer=Deleted),
    ]


async def _list(call: Call) -> list[Ip]:
    request = pool_service_pb2.ListTenantSourcesRequest(parent="tenants/me", search=call.query["search"] or "")
    return [ip(call, source) for source in await call.page("pools", "ListTenantSources", request)]


async def _allocate(call: Call) -> Ip:
    body = await call.body(Allocation)
    addresses = [_address(f"ips[{index}]", address) for index, address in enumerate(body.ips)]
    # The contract v1 warms up unless it is told not to; legacy has no such field.
    warm_up = body.autoWarmupEnabled
    if not isinstance(warm_up, bool):
        warm_up = None if call.legacy else True
    request = pool_service_pb2.AllocateTenantSourcesRequest(
        parent="tenants/me",
        addresses=addresses,
        auto_warm_up=warm_up,
        request_id=idempotency.request_id(call.request),
    )
    try:
        answer = await answers.ask(call, "pools", "AllocateTenantSources", request, _FIELDS)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND:
            raise errors.SendPostProblem(
                404, "One of the IPs is not set aside for this account.", param="ips"
            ) from None
        raise
    return ip(call, answer.sources[0])


async def _get(call: Call) -> Ip:
    request = pool_service_pb2.GetTenantSourceRequest(name=_name(call))
    return ip(call, await _asked(call, "GetTenantSource", request))


async def _update(call: Call) -> Ip:
    body = await call.body(IpChange)
    source = pool_pb2.TenantSource(name=_name(call), auto_warm_up=body.autoWarmupEnabled)
    request = pool_service_pb2.UpdateTenantSourceRequest(source=source)
    request.update_mask.paths.append("auto_warm_up")
    return ip(call, await _asked(call, "UpdateTenantSource", request, "This IP is shared: it cannot be changed."))


async def _delete(call: Call) -> Deleted:
    number = call.number("ip_id", WHAT)
    request = pool_service_pb2.ReleaseTenantSourceRequest(name=_name(call))
    await _asked(call, "ReleaseTenantSource", request, "This IP is shared or in a pool: it cannot be deleted.")
    return Deleted(number, "IP deleted.")


async def _asked(call: Call, method: str, request: object, needed: str = "") -> pool_pb2.TenantSource:
    """One call about the IP of the path; ``needed`` says why it may have to stay as it is. Raises Problem."""
    try:
        source: pool_pb2.TenantSource = await call.ask("pools", method, request)
    except Refusal as refusal:
        if refusal.reason is Reason.FAILED_PRECONDITION and needed:
            raise errors.SendPostProblem(400, needed) from None
        raise answers.of_path(call, WHAT, refusal) from None
    return source


def _name(call: Call) -> str:
    return f"tenants/me/sources/{call.number('ip_id', WHAT)}"


def _address(field: str, text: str) -> str:
    """An IP address in its one spelling. Raises Problem 422."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise errors.invalid_body(field, f"{field} must be an IP address.") from None


def ip(call: Call, source: pool_pb2.TenantSource) -> Ip:
    """An IP in the contract of the call."""
    shown = Ip(
        id=source.number,
        type=DEDICATED if source.dedicated else SHARED,
        labels=[],
        state=WARMING if source.warm_up_day else NORMAL,
        created=times.nanoseconds(source.create_time),
    )
    if call.legacy:
        shown.publicIP, shown.reverseDNSHostname = source.address, source.ehlo_name
    else:
        shown.publicIp, shown.reverseDnsHostname = source.address, source.ehlo_name
        shown.autoWarmupEnabled = source.auto_warm_up
        # The other spellings, for clients of an older version that ask for v1.
        shown.publicIP, shown.reverseDNSHostname = source.address, source.ehlo_name
    return shown
