"""What a look at the DNS of a domain found, as it is kept with the domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from control.model.dnsrecords import DnsRecord

MAX_FOUND = 5
"""Records of an answer that are kept."""
MAX_FOUND_TEXT = 500
"""Characters of each."""


class CheckKind(StrEnum):
    """What is looked at."""

    CHALLENGE = "challenge"
    DKIM = "dkim"
    SPF = "spf"
    DMARC = "dmarc"
    RETURN_PATH = "return_path"
    TRACKING = "tracking"


class CheckState(StrEnum):
    """How it is."""

    OK = "ok"
    MISSING = "missing"
    MISMATCH = "mismatch"
    ERROR = "error"
    """The DNS did not answer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``record`` is what should be there, ``selector`` that of a DKIM key."""

    kind: CheckKind
    state: CheckState
    record: DnsRecord
    found: tuple[str, ...] = ()
    explanation: str = ""
    selector: str = ""


def shown(found: Sequence[str]) -> tuple[str, ...]:
    """Records from the DNS, as many and as much of each as is kept."""
    return tuple(text[:MAX_FOUND_TEXT] for text in found[:MAX_FOUND])


def to_text(checks: Sequence[Check]) -> str:
    """The kept form."""
    return msgspec.json.encode(tuple(checks)).decode()


def from_text(text: str | None) -> tuple[Check, ...]:
    """Checks in their kept form; None: there are none."""
    return msgspec.json.decode(text, type=tuple[Check, ...]) if text is not None else ()


def state_of(checks: Sequence[Check], kind: CheckKind) -> CheckState | None:
    """The state of the first check of a kind, if there is one."""
    return next((check.state for check in checks if check.kind is kind), None)
