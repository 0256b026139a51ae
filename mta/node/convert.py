"""Between protos and domain values: the only place of the node that knows both."""

import json
from collections.abc import Iterable

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from barua.journal.v1 import event_pb2
from barua.policy.v1 import policy_service_pb2 as policy_pb

from mta.node import egressrecords
from mta.policy.records import (
    ApiKey,
    KeyAlgorithm,
    Login,
    OAuthClient,
    SealedKey,
    Sender,
    SenderDomain,
    Suppression,
    Tenant,
)
from mta.replica.writer import Record
from mta.spool.records import EventKind, OutboxRow

_ALGORITHMS = {
    policy_pb.DkimKey.ALGORITHM_RSA_SHA256: KeyAlgorithm.RSA_SHA256,
    policy_pb.DkimKey.ALGORITHM_ED25519_SHA256: KeyAlgorithm.ED25519_SHA256,
}
_KINDS: dict[int, event_pb2.Event.Kind.ValueType] = {
    EventKind.RECEIVED: event_pb2.Event.KIND_RECEIVED,
    EventKind.DELIVERED: event_pb2.Event.KIND_DELIVERED,
    EventKind.DEFERRED: event_pb2.Event.KIND_DEFERRED,
    EventKind.BOUNCED: event_pb2.Event.KIND_BOUNCED,
    EventKind.EXPIRED: event_pb2.Event.KIND_EXPIRED,
    EventKind.LEASE_RELEASED: event_pb2.Event.KIND_LEASE_RELEASED,
    EventKind.DROPPED: event_pb2.Event.KIND_DROPPED,
}


def records(changes: Iterable[policy_pb.Change]) -> list[tuple[Record, bool]]:
    """Records with whether they are gone. Kinds this version does not know are passed over."""
    converted = ((_record(change), change.deleted) for change in changes)
    return [(record, deleted) for record, deleted in converted if record is not None]


def event(row: OutboxRow) -> event_pb2.Event:
    """An outbox row as control's journal takes it."""
    return event_pb2.Event(
        sequence=row.sequence,
        kind=_KINDS[row.kind],
        time=timestamp(row.time_ms),
        tenant_id=row.tenant,
        recipient_id=row.recipient_id,
        message_id=row.message_id,
        sender=row.sender or "",
        recipient=row.recipient or "",
        subject=row.subject or "",
        size_bytes=row.size,
        source=row.source or "",
        attempt=row.attempt,
        code=row.code,
        enhanced_code=row.enhanced or "",
        text=row.text or "",
        remote_host=row.remote_host or "",
        next_attempt_time=timestamp(row.next_ms) if row.next_ms else None,
        lease_id=row.lease_id,
        credits=row.credits,
        provider=row.provider or "",
        egress_source=row.egress_source or "",
        stream=row.stream or "",
        tags=json.loads(row.tags) if row.tags else (),
        properties=row.properties or "",
        reference=row.reference or b"",
    )


def timestamp(time_ms: int) -> Timestamp:
    """Milliseconds since 1970 as a Timestamp."""
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def _record(change: policy_pb.Change) -> Record | None:
    if change.HasField("suppression"):  # first: there are millions
        return _suppression(change.suppression)
    match change.WhichOneof("record"):
        case "tenant":
            tenant = change.tenant
            return Tenant(
                tenant.tenant_id,
                tenant.parent_id,
                tenant.suspended,
                tenant.default_sender,
                tenant.max_message_bytes,
                tenant.max_message_recipients,
            )
        case "login":
            return _login(change.login)
        case "api_key":
            return _api_key(change.api_key)
        case "oauth_client":
            return _oauth_client(change.oauth_client)
        case "domain":
            return _domain(change.domain)
        case "sender":
            return Sender(change.sender.tenant_id, change.sender.address)
        case _:
            return egressrecords.record(change)


def _login(login: policy_pb.LoginRecord) -> Login:
    return Login(
        login.username,
        login.tenant_id,
        login.password_hash,
        tuple(login.allowed_networks),
        _seconds(login, "expire_time"),
    )


def _api_key(key: policy_pb.ApiKeyRecord) -> ApiKey:
    return ApiKey(
        key.key_id,
        key.tenant_id,
        key.secret_sha256,
        tuple(key.scopes),
        tuple(key.allowed_networks),
        _seconds(key, "expire_time"),
        key.previous_secret_sha256,
        _seconds(key, "previous_expire_time"),
    )


def _oauth_client(client: policy_pb.OAuthClientRecord) -> OAuthClient:
    return OAuthClient(
        client.client_id,
        client.tenant_id,
        tuple(client.scopes),
        client.token_generation,
        tuple(client.allowed_networks),
        _seconds(client, "expire_time"),
    )


def _seconds(record: Message, field: str) -> float:
    """A point in time in Unix seconds; 0 if it is unset."""
    time: Timestamp = getattr(record, field)
    return time.ToMicroseconds() / 1e6 if record.HasField(field) else 0.0


def _suppression(entry: policy_pb.SuppressionRecord) -> Suppression:
    expiry = entry.expire_time.ToMicroseconds() / 1e6 if entry.HasField("expire_time") else 0.0
    return Suppression(entry.tenant_id, entry.address, entry.reason, entry.stream, expiry)


def _domain(domain: policy_pb.DomainRecord) -> SenderDomain:
    keys = tuple(
        SealedKey(key.selector, _ALGORITHMS[key.algorithm], key.sealed_private_key)
        for key in domain.dkim_keys
        if key.algorithm in _ALGORITHMS
    )
    return SenderDomain(domain.domain, domain.tenant_id, domain.signing_off, keys, domain.signs_for_senders)
