"""What is found out about an address, and the verdict that follows."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.addresslists.load import load
from control.model.suppressions import Reason, Scope
from control.model.validation import (
    DomainFacts,
    Finding,
    Held,
    LastOutcome,
    Lists,
    Mail,
    Verdict,
    judge,
    one_slip,
    parse,
    suggestion,
)
from mta.runtime.options import OptionsError, ValidationOptions

LISTS = Lists({"throw.test"}, {"postmaster"}, {"free.test", "mail.com"}, ("gmail.com", "hotmail.com"))
GOOD = DomainFacts(Mail.EXCHANGERS, ("mx.x.test",))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def verdict_of(
    text: str, mail: Mail = Mail.EXCHANGERS, held: Held | None = None, last: LastOutcome | None = None
) -> tuple[Verdict, tuple[Finding, ...]]:
    judged = judge(parse(text), DomainFacts(mail), held, last, LISTS)
    assert judged.explanation
    return judged.verdict, judged.findings


@pytest.mark.parametrize(
    ("text", "mail", "verdict", "findings"),
    [
        ("ann@x.test", Mail.EXCHANGERS, Verdict.DELIVERABLE, ()),
        ("nobody", Mail.EXCHANGERS, Verdict.UNDELIVERABLE, (Finding.SYNTAX,)),
        ("ann@[192.0.2.1]", Mail.EXCHANGERS, Verdict.UNDELIVERABLE, (Finding.SYNTAX,)),
        ("ann@localhost", Mail.EXCHANGERS, Verdict.UNDELIVERABLE, (Finding.SYNTAX,)),
        ("ann@x.test", Mail.NO_DOMAIN, Verdict.UNDELIVERABLE, (Finding.NO_SUCH_DOMAIN,)),
        ("ann@x.test", Mail.NULL_MX, Verdict.UNDELIVERABLE, (Finding.NULL_MX,)),
        ("ann@x.test", Mail.NOTHING, Verdict.UNDELIVERABLE, (Finding.NO_MAIL_HOST,)),
        ("ann@x.test", Mail.NO_ANSWER, Verdict.UNKNOWN, (Finding.DNS_FAILED,)),
        ("ann@x.test", Mail.IMPLICIT, Verdict.RISKY, (Finding.IMPLICIT_MX,)),
        ("ann@sub.throw.test", Mail.EXCHANGERS, Verdict.RISKY, (Finding.DISPOSABLE,)),
        ("Postmaster+a@x.test", Mail.EXCHANGERS, Verdict.RISKY, (Finding.ROLE_ACCOUNT,)),
        ("ann@gmial.com", Mail.EXCHANGERS, Verdict.RISKY, (Finding.POSSIBLE_TYPO,)),
        ("ann@gmial.com", Mail.NO_DOMAIN, Verdict.UNDELIVERABLE, (Finding.NO_SUCH_DOMAIN, Finding.POSSIBLE_TYPO)),
        ("ann@mail.com", Mail.EXCHANGERS, Verdict.DELIVERABLE, ()),
    ],
)
def test_the_weightiest_finding_decides(text: str, mail: Mail, verdict: Verdict, findings: tuple[Finding, ...]) -> None:
    assert verdict_of(text, mail) == (verdict, findings)


def test_what_is_known_here_counts() -> None:
    held = Held(Scope.PLATFORM, Reason.COMPLAINT)
    assert verdict_of("ann@x.test", held=held) == (Verdict.UNDELIVERABLE, (Finding.SUPPRESSED,))
    for delivered, reply, verdict, finding in (
        (True, "250 2.0.0 ok", Verdict.DELIVERABLE, Finding.DELIVERED_BEFORE),
        (False, "550 5.1.1 no such user", Verdict.UNDELIVERABLE, Finding.HARD_BOUNCED),
        (False, "550 no such user", Verdict.UNDELIVERABLE, Finding.HARD_BOUNCED),
        (False, "552 5.2.2 full", Verdict.RISKY, Finding.SOFT_BOUNCED),
        (False, "4.4.1 nobody there", Verdict.RISKY, Finding.SOFT_BOUNCED),
        (False, "", Verdict.RISKY, Finding.SOFT_BOUNCED),
    ):
        assert verdict_of("ann@x.test", last=LastOutcome(delivered, reply, NOW)) == (verdict, (finding,))


def test_the_address_that_was_meant_is_told() -> None:
    judged = judge(parse(" Ann@Hotmial.com "), GOOD, None, None, LISTS)
    assert (judged.suggestion, judged.parsed.given) == ("ann@hotmail.com", "Ann@Hotmial.com")
    assert judge(parse("a@free.test"), GOOD, None, None, LISTS).free_mail


@pytest.mark.parametrize(
    "slip", ["gmal.com", "gmaill.com", "gmsil.com", "gmial.com", "mgail.com", "gmail.co", "gmail.con"]
)
def test_one_slip_is_seen(slip: str) -> None:
    assert suggestion(slip, ("gmail.com",)) == "gmail.com"


@pytest.mark.parametrize("other", ["gmail.com", "gmx.com", "gmal.co", "example.com", ""])
def test_more_is_not_one_slip(other: str) -> None:
    assert suggestion(other, ("gmail.com",)) == ""


def distance(one: str, other: str) -> int:
    """Optimal string alignment, by the book."""
    rows = [[max(i, j) if min(i, j) == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            best = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                best = min(best, rows[i - 2][j - 2] + 1)
            rows[i][j] = best
    return rows[-1][-1]


words = st.text("abc", max_size=6)


@given(words, words)
def test_one_slip_is_a_distance_of_one(one: str, other: str) -> None:
    assert one_slip(one, other) == (distance(one, other) == 1)


def test_there_are_lists_built_in() -> None:
    built_in = load(ValidationOptions())
    assert "mailinator.com" in built_in.disposable
    assert "postmaster" in built_in.roles
    assert "gmail.com" in built_in.free_mail
    assert "gmail.com" in built_in.intended


def test_a_list_of_the_operator_is_added(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("lists") / "own.txt"
    file.write_text("# ours\n\nOwn.Test\n")
    lists = load(ValidationOptions(disposable_domains_file=str(file)))
    assert {"own.test", "mailinator.com"} <= set(lists.disposable)
    with pytest.raises(OptionsError, match=r"gone\.txt"):
        load(ValidationOptions(role_accounts_file=str(file.parent / "gone.txt")))


def test_no_intended_domain_is_a_slip_of_another() -> None:
    lists = load(ValidationOptions())
    for name in [*lists.intended, *lists.free_mail]:
        judged = judge(parse(f"ann@{name}"), GOOD, None, None, lists)
        assert Finding.POSSIBLE_TYPO not in judged.findings, (name, judged.suggestion)
