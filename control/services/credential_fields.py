"""What requests about logins, API keys and OAuth clients have in common: reading and checking their fields."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from barua.control.v1.credential_pb2 import ApiKeyView

from control.authentication import caller
from control.model import credentials as rules
from control.model import fields
from control.model.apikeys import KeptSecret
from control.model.caller import Access
from control.permissions import SCOPES
from control.services.timestamps import from_proto
from control.store.credentials import KeySettings
from mta.runtime.refusals import Reason, Refusal

KEY_FIELDS = frozenset({"display_name", "scopes", "allowed_networks", "expire_time"})
"""What can be changed of an API key or an OAuth client."""


def require_unlimited_caller() -> None:
    """Refuse a caller that is limited to scopes: a login is not, so it must not make, change or remove one."""
    if caller().scopes is not None:
        raise Refusal(
            Reason.PERMISSION_DENIED,
            "keys and tokens cannot make, change or remove logins; use a login that administers",
        )


def require_grantable(scopes: Sequence[str]) -> None:
    """Refuse to give away scopes that the caller does not have itself."""
    if not caller().may_grant(scopes):
        missing = ", ".join(scope for scope in scopes if not caller().may_grant([scope]))
        raise Refusal(
            Reason.PERMISSION_DENIED,
            f"these credentials do not have the scopes {missing} themselves, so they cannot manage keys with them",
            metadata={"scopes": missing},
        )


def tells_secrets(view: ApiKeyView.ValueType) -> bool:
    """Whether a view of API keys has secrets; PERMISSION_DENIED for a caller that may not change credentials."""
    if view not in ApiKeyView.values():
        raise fields.invalid("view", f"view {view} is not known")
    if view != ApiKeyView.API_KEY_VIEW_WITH_SECRET:
        return False
    if not caller().may(Access.WRITE, "credentials"):
        message = "these credentials may not read secrets; take some that may change credentials, or the view BASIC"
        raise Refusal(Reason.PERMISSION_DENIED, message, field="view")
    return True


def expiry(message: Any, field: str) -> datetime | None:
    """The expire_time of a resource; None if it is unset. ``field`` is the request's field that holds the resource."""
    if not message.HasField("expire_time"):
        return None
    name = f"{field}.expire_time"
    try:
        time = from_proto(message.expire_time)
    except OverflowError:
        raise fields.invalid(name, f"{name} is beyond the year 9999") from None
    return rules.expiry(time, name, datetime.now(UTC))


def new_settings(message: Any, field: str) -> KeySettings:
    """The settings of a new API key or OAuth client."""
    return changed_settings(KeySettings("", ()), message, field, KEY_FIELDS)


def changed_settings(old: KeySettings, message: Any, field: str, paths: frozenset[str]) -> KeySettings:
    """The settings of an API key or OAuth client after an update of ``paths``."""
    display_name, scopes = old.display_name, old.scopes
    allowed_networks, expires_at = old.allowed_networks, old.expires_at
    if "display_name" in paths:
        display_name = fields.text(message.display_name, f"{field}.display_name")
    if "scopes" in paths:
        scopes = tuple(fields.scopes(message.scopes, f"{field}.scopes", SCOPES))
    if "allowed_networks" in paths:
        allowed_networks = rules.allowed_networks(message.allowed_networks, f"{field}.allowed_networks")
    if "expire_time" in paths:
        expires_at = expiry(message, field)
    return KeySettings(display_name, scopes, allowed_networks, expires_at)


def grace_end(period: Duration) -> datetime | None:
    """Until when the secret before a rotation stays valid; None: it ends now."""
    seconds = period.seconds + period.nanos / 1e9
    length = rules.grace(timedelta(seconds=max(-1.0, min(seconds, 1e9))), "grace_period")
    return datetime.now(UTC) + length if length else None


def previous_end(secret: KeptSecret) -> datetime | None:
    """Until when the secret before the last rotation is valid; None: it is not."""
    end = secret.previous_expires_at
    return None if rules.ended(end, datetime.now(UTC)) else end
