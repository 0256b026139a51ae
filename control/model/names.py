"""Resource names: ``tenants/{tenant}`` and what is below it (AIP-122).

``tenants/me`` is the caller's own tenant wherever a request names one. A name that cannot be one is INVALID_ARGUMENT;
one that can but names nothing is found out by ``store``.
"""

import re
from dataclasses import dataclass

from mta.runtime.refusals import Reason, Refusal

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

ME = "me"
"""In the place of a tenant id: the caller's own. No tenant can be called so."""


@dataclass(frozen=True, slots=True)
class ChildName:
    """A resource below a tenant: ``tenants/{tenant_id}/{collection}/{id}``."""

    tenant_id: str
    id: str


@dataclass(frozen=True, slots=True)
class LoginAlias:
    """``logins/{username}`` in the place of a tenant: the tenant of that login."""

    username: str


def is_tenant_id(text: str) -> bool:
    """Whether a text can be the id of a tenant."""
    return _TENANT.fullmatch(text) is not None and text != ME


def tenant(name: str, me: str, field: str) -> str:
    """The tenant id in ``tenants/{tenant}``."""
    collection, _, id_ = name.partition("/")
    if collection != "tenants" or not _TENANT.fullmatch(id_):
        raise _malformed(name, field, "tenants/{tenant}")
    return me if id_ == ME else id_


def tenant_or_login(name: str, me: str, field: str) -> str | LoginAlias:
    """The tenant id in ``tenants/{tenant}``, or the username in ``logins/{username}``."""
    collection, _, id_ = name.partition("/")
    if collection == "logins" and _storable(id_):
        return LoginAlias(id_)
    if collection != "tenants" or not _TENANT.fullmatch(id_):
        raise _malformed(name, field, "tenants/{tenant} or logins/{username}")
    return me if id_ == ME else id_


def child(name: str, collection: str, me: str, field: str = "name") -> ChildName:
    """The parts of ``tenants/{tenant}/{collection}/{id}``; an id may hold slashes, as some addresses do."""
    parts = name.split("/", 3)
    if len(parts) != 4 or parts[0] != "tenants" or parts[2] != collection or not _storable(parts[3]):
        raise _malformed(name, field, f"tenants/{{tenant}}/{collection}/{{id}}")
    return ChildName(tenant(f"tenants/{parts[1]}", me, field), parts[3])


def _storable(id_: str) -> bool:
    return id_ != "" and "\0" not in id_


def _malformed(name: str, field: str, form: str) -> Refusal:
    shown = name[:200] if name else "nothing"
    message = f'{field} must have the form {form}; it is "{shown}"'
    return Refusal(Reason.INVALID_ARGUMENT, message, field=field, metadata={"name": shown})
