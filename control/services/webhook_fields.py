"""What somebody chose for a webhook: from the proto to what is kept, field by field."""

from collections.abc import Collection
from dataclasses import dataclass

from barua.control.v1.webhook_pb2 import Webhook as WebhookProto

from control.model import fields
from control.model import webhooks as rules
from control.model.fields import invalid
from control.model.webhooks import Format
from control.store.webhooks import Settings, Webhook
from control.webhooks.destinations import Rules
from control.webhooks.formats import RENDERERS
from control.webhooks.vault import Vault

UPDATABLE = frozenset(
    {
        "display_name", "url", "event_kinds", "streams", "sender_domains", "include_subtree", "enabled",
        "payload_format", "headers", "batch_size",
    }
)  # fmt: skip
"""Fields that an update can name."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What checks of fields need: the operator's rules about URLs, and what seals header fields."""

    rules: Rules
    vault: Vault


def settings_of(checked: Fields, proto: WebhookProto, tenant_id: str, webhook_id: str) -> Settings:
    """The settings of a new webhook."""
    headers = rules.headers(proto.headers, {}, "webhook.headers")
    format_ = _format(proto.payload_format)
    return Settings(
        display_name=rules.display_name(proto.display_name, "webhook.display_name"),
        url=checked.rules.parse(proto.url, "webhook.url").url,
        kinds=tuple(rules.kinds(proto.event_kinds, format_, "webhook.event_kinds")),
        streams=tuple(rules.streams(proto.streams, "webhook.streams")),
        sender_domains=tuple(rules.sender_domains(proto.sender_domains, "webhook.sender_domains")),
        include_subtree=proto.include_subtree,
        enabled=proto.enabled if proto.HasField("enabled") else True,
        format=format_,
        sealed_headers=checked.vault.seal_headers(headers, tenant_id, webhook_id),
        batch_size=rules.batch_size(proto.batch_size, format_, "webhook.batch_size"),
    )


def settings_with(checked: Fields, kept: Webhook, proto: WebhookProto, paths: Collection[str]) -> Settings:
    """The settings of a webhook with the fields in ``paths`` changed; header values that are empty are kept."""
    merged = WebhookProto(
        display_name=kept.settings.display_name,
        url=kept.settings.url,
        event_kinds=[WebhookProto.EventKind.ValueType(kind) for kind in kept.settings.kinds],
        streams=kept.settings.streams,
        sender_domains=kept.settings.sender_domains,
        include_subtree=kept.settings.include_subtree,
        enabled=kept.settings.enabled,
        payload_format=WebhookProto.PayloadFormat.ValueType(kept.settings.format),
        batch_size=kept.settings.batch_size,
    )
    old_headers = checked.vault.headers(kept)
    if "url" in paths and old_headers and _authority(checked, proto.url) != _authority(checked, kept.settings.url):
        # Their values are secrets between the tenant and the old host.
        if "headers" not in paths:
            raise invalid("webhook.headers", "webhook.url leads to another host: give webhook.headers again, or none")
        old_headers = {}
    headers = rules.headers(proto.headers, old_headers, "webhook.headers") if "headers" in paths else old_headers
    for path in paths:
        merged.ClearField(path)  # type: ignore[arg-type]
    chosen = WebhookProto()
    chosen.CopyFrom(proto)
    for field in chosen.DESCRIPTOR.fields:
        if field.name not in paths:
            chosen.ClearField(field.name)  # type: ignore[arg-type]
    merged.MergeFrom(chosen)
    merged.ClearField("headers")
    merged.headers.update(headers)
    return settings_of(checked, merged, kept.tenant_id, kept.webhook_id)


def _authority(checked: Fields, url: str) -> tuple[str, str]:
    target = checked.rules.parse(url, "webhook.url")
    return target.scheme, target.authority


def _format(value: int) -> Format:
    """A format that is on offer."""
    try:
        wanted = Format(value or Format.NATIVE)
    except ValueError:
        wanted = None
    if wanted is None or wanted not in RENDERERS:
        offered = ", ".join(sorted(f"PAYLOAD_FORMAT_{one.name}" for one in RENDERERS))
        raise fields.invalid(
            "webhook.payload_format", f"webhook.payload_format {value} is not offered; on offer: {offered}"
        )
    return wanted
