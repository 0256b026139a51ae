"""What is found out about an address, and the verdict that follows.

Pure: the facts come in. ``parse`` tells whether it is an address at all, ``suggestion`` which domain may have been
meant, ``judge`` what all of it amounts to.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum

from control.model.addresses import canonical_address
from control.model.bounces import Judgement
from control.model.bounces import judge as judge_bounce
from control.model.events import EventKind
from control.model.suppressions import Reason, Scope
from mta.runtime.refusals import Refusal


class Verdict(IntEnum):
    """How likely mail arrives; the numbers of ``barua.control.v1.Verdict``."""

    DELIVERABLE = 1
    RISKY = 2
    UNDELIVERABLE = 3
    UNKNOWN = 4


class Finding(IntEnum):
    """Why; the numbers of ``barua.control.v1.AddressValidation.Finding``, the weightiest first."""

    SYNTAX = 1
    NO_SUCH_DOMAIN = 2
    NULL_MX = 3
    NO_MAIL_HOST = 4
    SUPPRESSED = 5
    HARD_BOUNCED = 6
    DNS_FAILED = 7
    IMPLICIT_MX = 8
    DISPOSABLE = 9
    ROLE_ACCOUNT = 10
    POSSIBLE_TYPO = 11
    SOFT_BOUNCED = 12
    DELIVERED_BEFORE = 13


VERDICTS = {
    Finding.SYNTAX: Verdict.UNDELIVERABLE,
    Finding.NO_SUCH_DOMAIN: Verdict.UNDELIVERABLE,
    Finding.NULL_MX: Verdict.UNDELIVERABLE,
    Finding.NO_MAIL_HOST: Verdict.UNDELIVERABLE,
    Finding.SUPPRESSED: Verdict.UNDELIVERABLE,
    Finding.HARD_BOUNCED: Verdict.UNDELIVERABLE,
    Finding.DNS_FAILED: Verdict.UNKNOWN,
    Finding.IMPLICIT_MX: Verdict.RISKY,
    Finding.DISPOSABLE: Verdict.RISKY,
    Finding.ROLE_ACCOUNT: Verdict.RISKY,
    Finding.POSSIBLE_TYPO: Verdict.RISKY,
    Finding.SOFT_BOUNCED: Verdict.RISKY,
    Finding.DELIVERED_BEFORE: Verdict.DELIVERABLE,
}
"""What each finding alone amounts to."""
_WEIGHT = (Verdict.UNDELIVERABLE, Verdict.UNKNOWN, Verdict.RISKY, Verdict.DELIVERABLE)
_WORDS = {
    Finding.NO_SUCH_DOMAIN: "its domain does not exist",
    Finding.NULL_MX: "its domain says that it takes no mail",
    Finding.NO_MAIL_HOST: "its domain has no mail server",
    Finding.HARD_BOUNCED: "the last mail to it bounced for good",
    Finding.DNS_FAILED: "the DNS did not answer for its domain; ask again later",
    Finding.IMPLICIT_MX: "its domain names no mail server, only an address",
    Finding.DISPOSABLE: "it is a throw-away mailbox",
    Finding.ROLE_ACCOUNT: "it is read by an office, not by a person",
    Finding.SOFT_BOUNCED: "the last mail to it failed",
    Finding.DELIVERED_BEFORE: "the last mail to it arrived",
}


class Mail(Enum):
    """What the DNS says about mail for a domain."""

    EXCHANGERS = "exchangers"
    IMPLICIT = "implicit"
    """No MX record, but an address (RFC 5321 §5.1)."""
    NULL_MX = "null MX"
    """RFC 7505."""
    NOTHING = "nothing"
    NO_DOMAIN = "no domain"
    NO_ANSWER = "no answer"


_OF_MAIL = {
    Mail.IMPLICIT: Finding.IMPLICIT_MX,
    Mail.NULL_MX: Finding.NULL_MX,
    Mail.NOTHING: Finding.NO_MAIL_HOST,
    Mail.NO_DOMAIN: Finding.NO_SUCH_DOMAIN,
    Mail.NO_ANSWER: Finding.DNS_FAILED,
}


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """A domain in the DNS."""

    mail: Mail
    hosts: tuple[str, ...] = ()
    """Mail servers, the most preferred first."""


@dataclass(frozen=True, slots=True)
class Held:
    """A suppression that holds."""

    scope: Scope
    reason: Reason


@dataclass(frozen=True, slots=True)
class LastOutcome:
    """What became of the last mail of the tenant to it."""

    delivered: bool
    reply: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Lists:
    """Names by which addresses are told apart, all in lower case."""

    disposable: Collection[str]
    """Domains of throw-away mailboxes."""
    roles: Collection[str]
    """Local parts of offices."""
    free_mail: Collection[str]
    """Domains of free mailboxes."""
    intended: Sequence[str]
    """Domains that slips of the finger are compared with, the most common first."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text that should be an address."""

    given: str
    canonical: str
    """Empty: it is none."""
    error: str

    @property
    def local(self) -> str:
        """The part before the @, canonical."""
        return self.canonical.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """The part after it."""
        return self.canonical.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Judged:
    """All that is said about an address."""

    parsed: Parsed
    verdict: Verdict
    findings: tuple[Finding, ...]
    explanation: str
    suggestion: str = ""
    free_mail: bool = False
    facts: DomainFacts | None = None
    held: Held | None = None
    last: LastOutcome | None = None


def parse(text: str) -> Parsed:
    """Whether it is an address that mail can be sent to: by the rules of every way in, and not an address literal."""
    given = text.strip()
    try:
        canonical = canonical_address(given, "the address")
    except Refusal as refusal:
        return Parsed(given, "", refusal.message)
    domain = canonical.rpartition("@")[2]
    if domain.startswith("["):
        return Parsed(given, "", "mail to address literals is not accepted; use a domain name")
    if "." not in domain:
        return Parsed(given, "", f'the domain "{domain}" has only one label; write the full domain name')
    return Parsed(given, canonical, "")


def judge(
    parsed: Parsed, facts: DomainFacts | None, held: Held | None, last: LastOutcome | None, lists: Lists
) -> Judged:
    """The verdict on an address. ``facts`` is None only where it is no address."""
    if not parsed.canonical or facts is None:
        return Judged(parsed, Verdict.UNDELIVERABLE, (Finding.SYNTAX,), parsed.error)
    meant = "" if parsed.domain in lists.free_mail else suggestion(parsed.domain, lists.intended)
    found = {_OF_MAIL[facts.mail]} if facts.mail in _OF_MAIL else set()
    if held is not None:
        found.add(Finding.SUPPRESSED)
    if last is not None:
        found.add(_of_outcome(last))
    if _listed(parsed.domain, lists.disposable):
        found.add(Finding.DISPOSABLE)
    if parsed.local.partition("+")[0] in lists.roles:
        found.add(Finding.ROLE_ACCOUNT)
    if meant:
        found.add(Finding.POSSIBLE_TYPO)
    findings = tuple(sorted(found))
    verdict = min((VERDICTS[finding] for finding in findings), key=_WEIGHT.index, default=Verdict.DELIVERABLE)
    suggested = f"{parsed.local}@{meant}" if meant else ""
    said = "; ".join(_words(finding, held, suggested) for finding in findings) or "nothing speaks against it"
    free = parsed.domain in lists.free_mail
    return Judged(parsed, verdict, findings, said, suggested, free, facts, held, last)


def suggestion(domain: str, intended: Sequence[str]) -> str:
    """The domain that may have been meant: one slip away from a common one; "" if none, or if it is one itself."""
    if domain in intended:
        return ""
    return next((known for known in intended if abs(len(known) - len(domain)) <= 1 and one_slip(domain, known)), "")


def one_slip(one: str, other: str) -> bool:
    """Whether two texts differ by one letter left out, added, replaced, or swapped with its neighbour."""
    if one == other:
        return False
    if len(one) > len(other):
        one, other = other, one
    start = next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    if len(one) < len(other):
        return one[start:] == other[start + 1 :]
    swapped = one[:start] + one[start + 1 : start + 2] + one[start : start + 1] + one[start + 2 :]
    return one[start + 1 :] == other[start + 1 :] or swapped == other


_ENHANCED = re.compile(r"(?:\d{3} )?([245]\.\d{1,3}\.\d{1,3})\b")


def _of_outcome(last: LastOutcome) -> Finding:
    if last.delivered:
        return Finding.DELIVERED_BEFORE
    code = _ENHANCED.match(last.reply)
    kind = EventKind.BOUNCED if code is None or code[1].startswith("5") else EventKind.EXPIRED
    hard = judge_bounce(kind, code[1] if code else "", last.reply) is Judgement.HARD
    return Finding.HARD_BOUNCED if hard else Finding.SOFT_BOUNCED


def _listed(domain: str, names: Collection[str]) -> bool:
    """Whether a domain or one above it is in a list."""
    labels = domain.split(".")
    return any(".".join(labels[index:]) in names for index in range(len(labels) - 1))


def _words(finding: Finding, held: Held | None, suggested: str) -> str:
    if finding is Finding.SUPPRESSED and held is not None:
        return f"it is on the suppression list (scope: {held.scope}, reason: {held.reason.replace('_', ' ')})"
    if finding is Finding.POSSIBLE_TYPO:
        return f"perhaps {suggested} is meant"
    return _WORDS[finding]
