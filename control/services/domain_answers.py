"""Domains and DKIM keys as protos: what ``domains`` and ``dkim_keys`` answer with."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from barua.control.v1 import dkim_key_pb2, domain_pb2

from control.model import dnsrecords
from control.model.checks import Check, CheckKind, CheckState
from control.model.dnsrecords import DnsRecord, SendingPlan
from control.services.timestamps import to_proto
from control.store.dkim_keys import DkimKey, KeyState
from control.store.domains import Domain

IN_FLIGHT = timedelta(days=7)
"""How long a message may be on its way, and its signature has to verify."""

_KINDS = {
    CheckKind.CHALLENGE: domain_pb2.DomainCheck.KIND_CHALLENGE,
    CheckKind.DKIM: domain_pb2.DomainCheck.KIND_DKIM,
    CheckKind.SPF: domain_pb2.DomainCheck.KIND_SPF,
    CheckKind.DMARC: domain_pb2.DomainCheck.KIND_DMARC,
    CheckKind.RETURN_PATH: domain_pb2.DomainCheck.KIND_RETURN_PATH,
    CheckKind.TRACKING: domain_pb2.DomainCheck.KIND_TRACKING,
}
_STATES = {
    CheckState.OK: domain_pb2.DomainCheck.STATE_OK,
    CheckState.MISSING: domain_pb2.DomainCheck.STATE_MISSING,
    CheckState.MISMATCH: domain_pb2.DomainCheck.STATE_MISMATCH,
    CheckState.ERROR: domain_pb2.DomainCheck.STATE_ERROR,
}
_KEY_STATES = {
    KeyState.PENDING: dkim_key_pb2.DkimKey.STATE_PENDING,
    KeyState.ACTIVE: dkim_key_pb2.DkimKey.STATE_ACTIVE,
    KeyState.RETIRED: dkim_key_pb2.DkimKey.STATE_RETIRED,
}
_ALGORITHMS = {
    "rsa": dkim_key_pb2.DkimKey.ALGORITHM_RSA,
    "ed25519": dkim_key_pb2.DkimKey.ALGORITHM_ED25519,
}


def domain_to_proto(domain: Domain, plan: SendingPlan) -> domain_pb2.Domain:
    """A domain with the records to publish."""
    kinds, settings = domain_pb2.Domain, domain.settings
    period = Duration(seconds=settings.rotation_days * 86_400) if settings.rotation_days else None
    return domain_pb2.Domain(
        name=f"tenants/{domain.tenant_id}/domains/{domain.domain}",
        state=kinds.STATE_VERIFIED if domain.verified else kinds.STATE_PENDING,
        signing=kinds.SIGNING_OFF if settings.signing_off else kinds.SIGNING_REQUIRED,
        dns_records=map(_record, _records(domain, plan)),
        create_time=to_proto(domain.created_at),
        return_path_host=settings.return_path_host,
        tracking_host=settings.tracking_host,
        key_rotation_period=period,
        signs_for_senders=settings.signs_for_senders,
        checks=map(_check, domain.checks),
        check_time=to_proto(domain.checked_at),
        verify_time=to_proto(domain.verified_at),
        challenge_missing_time=to_proto(domain.challenge_missing_at),
        update_time=to_proto(domain.updated_at),
        etag=domain.etag,
        number=domain.number,
    )


def key_to_proto(key: DkimKey) -> dkim_key_pb2.DkimKey:
    """A key without its private part."""
    return dkim_key_pb2.DkimKey(
        name=f"tenants/{key.tenant_id}/domains/{key.domain}/dkimKeys/{key.selector}",
        state=_KEY_STATES[key.state],
        algorithm=_ALGORITHMS[key.algorithm],
        bits=key.bits,
        imported=key.imported,
        rotation=key.rotation,
        dns_record=_record(_key_record(key)),
        create_time=to_proto(key.created_at),
        activate_time=to_proto(key.activated_at),
        retire_time=to_proto(key.retired_at),
    )


def _records(domain: Domain, plan: SendingPlan) -> list[DnsRecord]:
    settings = domain.settings
    # A check knows more of SPF: what else is in the record, and the sources that are used.
    checked = next((check.record for check in domain.checks if check.kind is CheckKind.SPF), None)
    records = [
        dnsrecords.challenge(domain.domain, domain.challenge),
        *map(_key_record, domain.keys),
        checked or dnsrecords.spf(domain.domain, plan),
        dnsrecords.dmarc(domain.domain),
    ]
    if settings.return_path_host:
        records.append(dnsrecords.return_path(settings.return_path_host, plan))
    if settings.tracking_host:
        records.append(dnsrecords.tracking(settings.tracking_host, plan))
    return records


def _key_record(key: DkimKey) -> DnsRecord:
    purpose = ""
    if key.state is KeyState.PENDING:
        purpose = f"will verify signatures with the new {key.algorithm} key: publish it before that is activated"
    elif key.retired_at is not None:
        until = (key.retired_at + IN_FLIGHT).date()
        purpose = f"verifies signatures made before with a retired {key.algorithm} key: leave it until {until}"
    return dnsrecords.dkim(key.domain, key.selector, key.algorithm, key.public_key, purpose)


def _record(record: DnsRecord) -> domain_pb2.DnsRecord:
    return domain_pb2.DnsRecord(
        owner=record.owner, type=record.type, data=record.data, purpose=record.purpose, strings=record.strings
    )


def _check(check: Check) -> domain_pb2.DomainCheck:
    return domain_pb2.DomainCheck(
        kind=_KINDS[check.kind],
        state=_STATES[check.state],
        record=_record(check.record),
        found=check.found,
        explanation=check.explanation,
        selector=check.selector,
    )
