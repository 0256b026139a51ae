"""Whether mail is held back now: what nodes would say, with as much of the reason as the caller may see."""

from collections.abc import Iterable, Sequence

from barua.control.v1 import suppression_service_pb2

from control.database import Connection, Database
from control.model import addresses, fields, names
from control.model.caller import acting_for_platform
from control.model.suppressions import MAX_BATCH, Scope, scope_of, stream
from control.services import suppressionshapes as shapes
from control.store import suppressions, tenants
from control.store.suppressions import Suppression
from control.store.tenants import Tenant
from mta.runtime.refusals import Refusal


async def checked(
    database: Database, me: str, request: suppression_service_pb2.CheckSuppressionsRequest
) -> list[suppression_service_pb2.SuppressionCheck]:
    """The results of a request. ``me`` is the caller's tenant."""
    tenant_id = names.tenant(request.parent, me, "parent")
    if not 1 <= len(request.addresses) <= MAX_BATCH:
        raise fields.invalid("addresses", f"addresses must be 1 to {MAX_BATCH}; there are {len(request.addresses)}")
    name = stream(request.stream, "stream")
    results = [_parsed(address) for address in request.addresses]
    wanted = {result.canonical_address for result in results if result.canonical_address}
    tenant = await database.transact(lambda connection: tenants.visible(connection, me, tenant_id))
    found = await holding(database, tenant, sorted(wanted), name)
    for result in results:
        entries = found.get(result.canonical_address, ())
        result.suppressed = bool(entries)
        result.matches.extend(_match(entry, tenant, me) for entry in entries)
    return results


async def holding(
    database: Database, tenant: Tenant, wanted: Sequence[str], stream_: str
) -> dict[str, list[Suppression]]:
    """What holds back a tenant's mail to some canonical addresses, by address, the nearest first.

    It has rows of tenants above, which are not for the tenant to see.
    """

    async def read(connection: Connection) -> list[Suppression]:
        return await suppressions.matching(connection, tenant.path, wanted, stream_)

    with acting_for_platform():
        rows = await database.transact(read)
    return _by_address(rows, list(tenant.path)) if rows else {}


def _by_address(rows: Iterable[Suppression], path: Sequence[str]) -> dict[str, list[Suppression]]:
    found: dict[str, list[Suppression]] = {}
    for entry in sorted(rows, key=lambda entry: (-path.index(entry.tenant_id), entry.stream)):
        found.setdefault(entry.address, []).append(entry)
    return found


def _parsed(address: str) -> suppression_service_pb2.SuppressionCheck:
    try:
        canonical = addresses.canonical_address(address, "address")
    except Refusal as refusal:
        return suppression_service_pb2.SuppressionCheck(address=address, invalid_reason=refusal.message)
    return suppression_service_pb2.SuppressionCheck(address=address, canonical_address=canonical)


def _match(entry: Suppression, tenant: Tenant, me: str) -> suppression_service_pb2.SuppressionMatch:
    scope: Scope = scope_of(entry.tenant_id, tenant.tenant_id)
    # The caller is at or above the tenant; what lies above the caller is not for it to see.
    visible = tenant.path.index(entry.tenant_id) >= tenant.path.index(me)
    return suppression_service_pb2.SuppressionMatch(
        scope=shapes.SCOPE_PROTOS[scope],
        reason=shapes.REASON_PROTOS[entry.reason],
        stream=entry.stream,
        suppression=shapes.to_suppression(entry) if visible else None,
    )
