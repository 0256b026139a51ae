"""IP pools of an account, which the messages of its sub-accounts name in ``ippool``.

Round robin and shares by volume (percentages by IP in ``routingMetaData``) are in force; the other two strategies are
kept, and their pools work as with round robin.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import pool_pb2, pool_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Deleted
from api_bridge.dialects.sendpost.ips import DEDICATED, SHARED, Ip, ip
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

WHAT = "IP pool"

_STRATEGIES = (
    pool_pb2.TenantPool.ROUTING_STRATEGY_ROUND_ROBIN,
    pool_pb2.TenantPool.ROUTING_STRATEGY_RECIPIENT_PROVIDER,
    pool_pb2.TenantPool.ROUTING_STRATEGY_VOLUME_SHARE,
    pool_pb2.TenantPool.ROUTING_STRATEGY_SENDER_DOMAIN,
)
"""By their numbers in this API."""
_FIELDS = {
    "pool.display_name": "name",
    "pool.addresses": "ips",
    "pool.routing_strategy": "routingStrategy",
    "pool.routing_metadata": "routingMetaData",
    "pool.overflow": "shouldOverflow",
    "pool.overflow_pool": "overflowPoolName",
}


class PublicIp(Struct):
    """An IP of a pool in a request, which has either spelling."""

    publicIP: str | None = None  # noqa: N815  # the name in the JSON
    publicIp: str | None = None  # noqa: N815


_Name = Annotated[str, Meta(min_length=1, max_length=100)]
_Ips = Annotated[list[PublicIp], Meta(max_length=1000)]
_Strategy = Annotated[int, Meta(ge=0, le=3)]
_Whole = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class PoolChange(Struct):
    """Body of update. The last three are of the legacy contract."""

    name: _Name | None = None
    ips: _Ips | None = None
    tpsps: list[_Whole] | None = None
    routingStrategy: _Strategy | None = None  # noqa: N815
    routingMetaData: str | None = None  # noqa: N815
    shouldOverflow: bool | None = None  # noqa: N815
    overflowPoolName: str | None = None  # noqa: N815
    overflowPool: bool | None = None  # noqa: N815
    warmupInterval: _Whole | None = None  # noqa: N815
    overflowStrategy: Annotated[int, Meta(ge=0, le=1)] | None = None  # noqa: N815


class NewPool(PoolChange, kw_only=True):
    """Body of create."""

    name: _Name


class IpPool(Struct):
    """A pool, in the words of both contracts. Other providers and their secrets are never told."""

    id: int
    name: str
    type: int
    routingStrategy: int  # noqa: N815
    routingMetaData: str  # noqa: N815
    shouldOverflow: bool  # noqa: N815
    overflowPoolName: str  # noqa: N815
    ips: list[Ip]
    created: int
    autoWarmupEnabled: bool  # noqa: N815
    infraMonitor: bool  # noqa: N815
    warmupInterval: int  # noqa: N815
    thirdPartySendingProviders: list[None]  # noqa: N815


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/account/ippool", "/account/ippool/{ippool_id}", Key.ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_ippools",
            "Pools of the account, the oldest first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[IpPool],
        ),
        Operation(
            "POST",
            path,
            "create_ippool",
            "Make a pool.",
            _create,
            key,
            body=NewPool,
            answer=IpPool,
            failures=(403, 409),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", one, "get_ippool", "Read a pool.", _get, key, answer=IpPool),
        Operation(
            "PUT",
            one,
            "update_ippool",
            "Change a pool; IPs that are given take the place of those it has.",
            _update,
            key,
            body=PoolChange,
            answer=IpPool,
            failures=(400, 403),
        ),
        Operation("DELETE", one, "delete_ippool", "Delete a pool.", _delete, key, answer=Deleted),
    ]


async def _list(call: Call) -> list[IpPool]:
    request = pool_service_pb2.ListTenantPoolsRequest(parent="tenants/me", search=call.query["search"] or "")
    return [_pool(call, pool) for pool in await call.page("pools", "ListTenantPools", request)]


async def _create(call: Call) -> IpPool:
    pool, _ = _wanted(await call.body(NewPool))
    request = pool_service_pb2.CreateTenantPoolRequest(
        parent="tenants/me", pool=pool, request_id=idempotency.request_id(call.request)
    )
    return _pool(call, await answers.ask(call, "pools", "CreateTenantPool", request, _FIELDS))


async def _get(call: Call) -> IpPool:
    request = pool_service_pb2.GetTenantPoolRequest(name=_name(call))
    return _pool(call, await _asked(call, "GetTenantPool", request))


async def _update(call: Call) -> IpPool:
    name = _name(call)
    try:
        pool, paths = _wanted(await call.body(PoolChange))
        if not paths:
            return await _get(call)
        pool.name = name
        request = pool_service_pb2.UpdateTenantPoolRequest(pool=pool)
        request.update_mask.paths.extend(paths)
        return _pool(call, await _asked(call, "UpdateTenantPool", request))
    except Problem as problem:
        raise _of_update(problem) from None
    except Refusal as refusal:
        raise _of_update(errors.problem(refusal, changing=True)) from None


async def _delete(call: Call) -> Deleted:
    number = call.number("ippool_id", WHAT)
    try:
        await _asked(call, "DeleteTenantPool", pool_service_pb2.DeleteTenantPoolRequest(name=_name(call)))
    except Refusal as refusal:
        if refusal.reason is Reason.FAILED_PRECONDITION:
            raise errors.SendPostProblem(400, "This IP pool is in use, such as for the overflow of another.") from None
        raise
    return Deleted(number, "IP pool deleted.")


async def _asked(call: Call, method: str, request: object) -> pool_pb2.TenantPool:
    try:
        pool: pool_pb2.TenantPool = await answers.ask(call, "pools", method, request, _FIELDS)
    except Refusal as refusal:
        raise answers.of_path(call, WHAT, refusal) from None
    return pool


def _of_update(problem: Problem) -> Problem:
    """Updates of pools answer 400 where other calls answer 422."""
    if problem.status != 422:
        return problem
    return errors.SendPostProblem(400, problem.message, param=getattr(problem, "param", None))


def _name(call: Call) -> str:
    return f"tenants/me/pools/{call.number('ippool_id', WHAT)}"


def _wanted(body: PoolChange) -> tuple[pool_pb2.TenantPool, list[str]]:
    """The pool with what the body says, and the names of those fields. Raises Problem 422."""
    if body.tpsps:
        raise errors.invalid_body("tpsps", "tpsps: third-party sending providers are not served here.")
    values: dict[str, object] = {}
    if isinstance(body.name, str):
        values["display_name"] = body.name.strip()
    if isinstance(body.ips, list):
        values["addresses"] = [_public_ip(index, given) for index, given in enumerate(body.ips)]
    if isinstance(body.routingStrategy, int):
        values["routing_strategy"] = _STRATEGIES[body.routingStrategy]
    if isinstance(body.routingMetaData, str):
        values["routing_metadata"] = body.routingMetaData
    overflow = body.shouldOverflow if isinstance(body.shouldOverflow, bool) else body.overflowPool
    if not isinstance(overflow, bool) and isinstance(body.overflowStrategy, int):
        overflow = body.overflowStrategy == 1
    if isinstance(overflow, bool):
        values["overflow"] = overflow
    if isinstance(body.overflowPoolName, str):
        values["overflow_pool"] = body.overflowPoolName
    return pool_pb2.TenantPool(**values), list(values)  # type: ignore[arg-type]


def _public_ip(index: int, given: PublicIp) -> str:
    for address in (given.publicIP, given.publicIp):
        if isinstance(address, str):
            return address.strip()
    field = f"ips[{index}].publicIP"
    raise errors.invalid_body(field, f"{field} is required.")


def _pool(call: Call, pool: pool_pb2.TenantPool) -> IpPool:
    return IpPool(
        id=pool.number,
        name=pool.display_name,
        type=DEDICATED if pool.sources and all(source.dedicated for source in pool.sources) else SHARED,
        routingStrategy=_STRATEGIES.index(pool.routing_strategy) if pool.routing_strategy in _STRATEGIES else 0,
        routingMetaData=pool.routing_metadata,
        shouldOverflow=pool.overflow,
        overflowPoolName=pool.overflow_pool,
        ips=[ip(call, source) for source in pool.sources],
        created=times.nanoseconds(pool.create_time),
        autoWarmupEnabled=bool(pool.sources) and all(source.auto_warm_up for source in pool.sources),
        infraMonitor=False,
        warmupInterval=0,
        thirdPartySendingProviders=[],
    )
