"""Who calls, and what kind of access a method asks for."""

from dataclasses import dataclass
from enum import StrEnum

ROOT_TENANT = "operator"
"""Id of the root of the tree."""


class Role(StrEnum):
    """What the credentials of a call are."""

    OPERATOR = "operator"
    """The operator's token, or a login of the root tenant."""
    TENANT = "tenant"
    """A login."""
    NODE = "node"
    """The nodes' token."""


class Access(StrEnum):
    """Who may call a method. The operator may call all of them."""

    TENANT = "tenant"
    """Any login, for its own subtree."""
    NODE = "node"
    """Nodes."""
    OPERATOR = "operator"
    """Nobody else."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``tenant_id`` is its own tenant; a node acts for the root."""

    role: Role
    tenant_id: str

    def may(self, access: Access) -> bool:
        """Whether it may call a method that asks for ``access``."""
        return self.role is Role.OPERATOR or self.role.value == access.value
