"""Who calls, what kind of access a method asks for, and for whom the database is asked."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

ROOT_TENANT = "operator"
"""Id of the root of the tree."""


class Role(StrEnum):
    """What the credentials of a call are."""

    OPERATOR = "operator"
    """The operator's token, or an administrator's login of the root tenant."""
    RESELLER = "reseller"
    """Credentials of a tenant that may have tenants below it."""
    TENANT = "tenant"
    """Credentials of any other tenant."""
    READ_ONLY = "read_only"
    """Credentials that may look at their subtree and change nothing."""
    SENDER = "sender"
    """A login for sending: no business here."""
    NODE = "node"
    """The nodes' token or certificate."""


class Access(StrEnum):
    """Who may call a method."""

    READ = "read"
    """Everybody but nodes, for their own subtree: the method changes nothing."""
    WRITE = "write"
    """Tenants, resellers and the operator, for their own subtree."""
    RESELL = "resell"
    """Resellers, for their subtree, and the operator."""
    OPERATOR = "operator"
    """The operator."""
    INSPECT = "inspect"
    """The operator: the method changes nothing."""
    NODE = "node"
    """Nodes and the operator."""
    OPEN = "open"
    """Everybody, without credentials: the method judges what its request says."""


_ALLOWED: dict[Role, frozenset[Access]] = {
    Role.OPERATOR: frozenset(Access),
    Role.RESELLER: frozenset({Access.READ, Access.WRITE, Access.RESELL}),
    Role.TENANT: frozenset({Access.READ, Access.WRITE}),
    Role.READ_ONLY: frozenset({Access.READ}),
    Role.SENDER: frozenset(),
    Role.NODE: frozenset({Access.NODE}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``tenant_id`` is its own tenant; a node acts for the root.

    ``scopes`` limits a key or token to services of these scopes ("domains", or "domains:read"); None: no such limit.
    ``name`` says to people which credentials they are, such as "login ann" or "key abcdefabcdef".
    """

    role: Role
    tenant_id: str
    scopes: frozenset[str] | None = None
    name: str = ""

    def may(self, access: Access, scope: str) -> bool:
        """Whether it may call a method that asks for ``access`` in a service of ``scope``."""
        if access not in _ALLOWED[self.role]:
            return False
        if self.scopes is None or scope in self.scopes:
            return True
        return access is Access.READ and f"{scope}:read" in self.scopes

    def may_grant(self, scopes: Collection[str]) -> bool:
        """Whether it may make credentials with these scopes: nobody gives away more than they have."""
        if self.scopes is None:
            return True
        return all(scope in self.scopes or scope.removesuffix(":read") in self.scopes for scope in scopes)


_acting: ContextVar[str] = ContextVar("acting_tenant", default=ROOT_TENANT)


def acting_tenant() -> str:
    """Whose rows the database shows to what runs now: those of this tenant and below. The root's outside of calls."""
    return _acting.get()


def act_for(tenant_id: str) -> None:
    """Show only this tenant's rows and those below for the rest of this task."""
    _acting.set(tenant_id)


@contextmanager
def acting_for_platform() -> Iterator[None]:
    """Show all rows: for rules that hold across tenants, such as who owns a domain. What is read must not leak."""
    token = _acting.set(ROOT_TENANT)
    try:
        yield
    finally:
        _acting.reset(token)
