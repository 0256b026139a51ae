"""Sending domains of a sub-account: claimed, with the records to publish, and looked up in the DNS.

The record of the DKIM key that is made for a claim proves it. The original's clients have no call that asks for a look
at the DNS, and read a domain again until it is verified: so reading one that is not has its DNS looked at, if the last
look is ``LOOK_SECONDS`` old. Control looks by itself every hour, too.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import domain_pb2, domain_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Count, Deleted
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from mta.runtime.refusals import Reason, Refusal

WHAT = "Domain"
LOOK_SECONDS = 10
"""Between looks at the DNS that reading a domain brings about."""
RETURN_PATH, TRACK = "sp-bounces", "track"
"""Labels of the hosts below a domain."""

_NOTHING_NEW = frozenset(
    {Reason.RATE_LIMITED, Reason.UNAVAILABLE, Reason.PERMISSION_DENIED, Reason.FAILED_PRECONDITION, Reason.NOT_FOUND}
)
"""Why a look did not happen, or proved nothing: the domain is shown as it is known."""
_FIELDS = {"domain": "name"}
_CHECK = domain_pb2.DomainCheck


class NewDomain(Struct):
    """Body of create."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]


class DnsRecord(Struct):
    """A record to publish."""

    host: str
    type: str
    textValue: str  # noqa: N815  # the name in the JSON


class Domain(Struct):
    """A domain, in the words of both contracts. ``verified``: mail from it is taken."""

    id: int
    name: str
    dnsProvider: str  # noqa: N815
    dkim: DnsRecord | None
    spf: DnsRecord | None
    returnPath: DnsRecord | None  # noqa: N815
    track: DnsRecord | None
    dmarc: DnsRecord | None
    gpt: DnsRecord | None
    dkimConfig: str  # noqa: N815
    dkimVerified: bool  # noqa: N815
    spfVerified: bool  # noqa: N815
    mailboxVerified: bool  # noqa: N815
    dmarcVerified: bool  # noqa: N815
    returnPathVerified: bool  # noqa: N815
    trackVerified: bool  # noqa: N815
    gptVerified: bool  # noqa: N815
    verified: bool
    domainRegisteredDate: str | None  # noqa: N815
    created: int
    dkimFailureReason: str  # noqa: N815
    dmarcFailureReason: str  # noqa: N815
    trackFailureReason: str  # noqa: N815
    returnPathFailureReason: str  # noqa: N815


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/subaccount/domain", "/subaccount/domain/{domain_id}", Key.SUB_ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_domains",
            "Domains of the sub-account, the oldest first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[Domain],
        ),
        Operation(
            "POST",
            path,
            "create_domain",
            "Claim a domain; the answer has the records to publish.",
            _create,
            key,
            body=NewDomain,
            answer=Domain,
            status=201,
            legacy_status=200,
            failures=(403, 409),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", f"{path}/count", "count_domains", "Count the domains.", _count, key, answer=Count),
        Operation("GET", one, "get_domain", "Read a domain.", _get, key, answer=Domain, unknown_status=406),
        Operation(
            "DELETE", one, "delete_domain", "Give a domain up.", _delete, key, answer=Deleted, unknown_status=406
        ),
        Operation(
            "POST",
            f"{one}/verify",
            "verify_domain",
            "Have the DNS of a domain looked at now.",
            _verify,
            key,
            answer=Domain,
            unknown_status=406,
        ),
    ]


async def _list(call: Call) -> list[Domain]:
    request = domain_service_pb2.ListDomainsRequest(
        parent="tenants/me", search=call.query["search"] or "", order_by="number"
    )
    return [_domain(found) for found in await call.page("domains", "ListDomains", request)]


async def _create(call: Call) -> Domain:
    body = await call.body(NewDomain)
    name = body.name.strip().rstrip(".")
    request = domain_service_pb2.CreateDomainRequest(
        parent="tenants/me",
        domain=name,
        settings=domain_pb2.Domain(
            return_path_host=f"{RETURN_PATH}.{name}" if name else "",
            tracking_host=f"{TRACK}.{name}" if name else "",
        ),
        request_id=idempotency.request_id(call.request),
    )
    fields = _FIELDS | {"settings.return_path_host": "name", "settings.tracking_host": "name"}
    return _domain(await answers.ask(call, "domains", "CreateDomain", request, fields))


async def _count(call: Call) -> Count:
    return await answers.total(
        call, "domains", "ListDomains", domain_service_pb2.ListDomainsRequest(parent="tenants/me")
    )


async def _get(call: Call) -> Domain:
    found = await _read(call)
    if found.state == domain_pb2.Domain.STATE_VERIFIED or _age(found) < timedelta(seconds=LOOK_SECONDS):
        return _domain(found)
    return _domain(await _looked_at(call, found))


async def _verify(call: Call) -> Domain:
    return _domain(await _looked_at(call, await _read(call)))


async def _delete(call: Call) -> Deleted:
    number = call.number("domain_id", WHAT)
    request = domain_service_pb2.DeleteDomainRequest(name=f"tenants/me/domains/{number}")
    try:
        await call.ask("domains", "DeleteDomain", request)
    except Refusal as refusal:
        raise answers.of_path(call, WHAT, refusal) from None
    return Deleted(number, "Domain deleted.")


async def _read(call: Call) -> domain_pb2.Domain:
    number = call.number("domain_id", WHAT)
    try:
        found: domain_pb2.Domain = await call.ask(
            "domains", "GetDomain", domain_service_pb2.GetDomainRequest(name=f"tenants/me/domains/{number}")
        )
    except Refusal as refusal:
        raise answers.of_path(call, WHAT, refusal) from None
    return found


async def _looked_at(call: Call, domain: domain_pb2.Domain) -> domain_pb2.Domain:
    """The domain after a look at its DNS; as it was, if there was none."""
    try:
        domain = await call.ask("domains", "CheckDomain", domain_service_pb2.CheckDomainRequest(name=domain.name))
        if (
            domain.state != domain_pb2.Domain.STATE_VERIFIED
            and _state(domain, _CHECK.KIND_CHALLENGE) == _CHECK.STATE_OK
        ):
            request = domain_service_pb2.VerifyDomainRequest(name=domain.name)
            domain = await call.ask("domains", "VerifyDomain", request)
    except Refusal as refusal:
        if refusal.reason not in _NOTHING_NEW:
            raise
    return domain


def _age(domain: domain_pb2.Domain) -> timedelta:
    """How long ago the DNS was looked at."""
    if not domain.HasField("check_time"):
        return timedelta.max
    return datetime.now(UTC) - domain.check_time.ToDatetime(UTC)


def _domain(found: domain_pb2.Domain) -> Domain:
    name = found.name.rpartition("/")[2]
    return Domain(
        id=found.number,
        name=name,
        dnsProvider="other",
        dkim=_dkim(found),
        spf=_record(found, name),
        returnPath=_record(found, found.return_path_host),
        track=_record(found, found.tracking_host),
        dmarc=_record(found, f"_dmarc.{name}"),
        gpt=None,
        dkimConfig="",
        dkimVerified=_ok(found, _CHECK.KIND_DKIM),
        spfVerified=_ok(found, _CHECK.KIND_SPF),
        mailboxVerified=False,
        dmarcVerified=_ok(found, _CHECK.KIND_DMARC),
        returnPathVerified=_ok(found, _CHECK.KIND_RETURN_PATH),
        trackVerified=_ok(found, _CHECK.KIND_TRACKING),
        gptVerified=False,
        verified=found.state == domain_pb2.Domain.STATE_VERIFIED,
        domainRegisteredDate=None,
        created=times.nanoseconds(found.create_time),
        dkimFailureReason=_failure(found, _CHECK.KIND_DKIM),
        dmarcFailureReason=_failure(found, _CHECK.KIND_DMARC),
        trackFailureReason=_failure(found, _CHECK.KIND_TRACKING),
        returnPathFailureReason=_failure(found, _CHECK.KIND_RETURN_PATH),
    )


def _dkim(found: domain_pb2.Domain) -> DnsRecord | None:
    """The record of the RSA key that is used, which every receiver understands."""
    records = [record for record in found.dns_records if "._domainkey." in record.owner and "k=rsa" in record.data]
    used = [record for record in records if record.purpose.startswith("verifies signatures with")]
    return next((DnsRecord(record.owner, record.type, record.data) for record in used or records), None)


def _record(found: domain_pb2.Domain, owner: str) -> DnsRecord | None:
    return next((DnsRecord(one.owner, one.type, one.data) for one in found.dns_records if one.owner == owner), None)


def _checks(found: domain_pb2.Domain, kind: "_CHECK.Kind.ValueType") -> list[domain_pb2.DomainCheck]:
    """What was looked at; of DKIM keys the one that is shown."""
    shown = _dkim(found)
    wanted = shown.host if kind == _CHECK.KIND_DKIM and shown is not None else ""
    return [check for check in found.checks if check.kind == kind and (not wanted or check.record.owner == wanted)]


def _state(found: domain_pb2.Domain, kind: "_CHECK.Kind.ValueType") -> "_CHECK.State.ValueType":
    return next((check.state for check in _checks(found, kind)), _CHECK.STATE_UNSPECIFIED)


def _ok(found: domain_pb2.Domain, kind: "_CHECK.Kind.ValueType") -> bool:
    return _state(found, kind) == _CHECK.STATE_OK


def _failure(found: domain_pb2.Domain, kind: "_CHECK.Kind.ValueType") -> str:
    return next((one.explanation for one in _checks(found, kind) if one.state != _CHECK.STATE_OK), "")
