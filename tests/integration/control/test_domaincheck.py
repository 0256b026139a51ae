"""Checks of a domain against a real DNS server: what is there, what is not, what is there instead."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from control.domaincheck import lookup
from control.domaincheck.checker import Checker, PublishedKey, Wanted
from control.domaincheck.lookup import DnsAway, Nameservers
from control.model import dnsrecords
from control.model.checks import Check, CheckKind, CheckState
from control.model.dnsrecords import SendingPlan
from control.model.taglists import DmarcPolicy
from tests.support.dns import DnsServer, Failure

DOMAIN = "acme.test"
KEY = PublishedKey("s1", "ed25519", b"\x01" * 32)
LONG_KEY = PublishedKey("s2", "rsa", bytes(range(256)) * 2)
PLAN = SendingPlan(("mta.test",), "", "bounces.test", "links.test")
WANTED = Wanted(DOMAIN, "token", False, (KEY,), f"bounces.{DOMAIN}", f"track.{DOMAIN}")


def checker(server: DnsServer, plan: SendingPlan = PLAN) -> Checker:
    return Checker(Nameservers([server.address]), plan)


async def checked(server: DnsServer, kind: CheckKind, wanted: Wanted = WANTED, plan: SendingPlan = PLAN) -> Check:
    (found,) = [check for check in await checker(server, plan).check(wanted) if check.kind is kind]
    return found


async def test_nothing_is_there(dns_server: DnsServer) -> None:
    found = await checker(dns_server).check(WANTED)
    assert [check.kind for check in found] == list(CheckKind)
    assert {check.state for check in found} == {CheckState.MISSING}
    assert all(check.explanation and check.record.data for check in found)


async def test_everything_is_there(dns_server: DnsServer) -> None:
    for record in (
        dnsrecords.challenge(DOMAIN, "token"),
        dnsrecords.dkim(DOMAIN, KEY.selector, KEY.algorithm, KEY.public_key),
        dnsrecords.dkim(DOMAIN, LONG_KEY.selector, LONG_KEY.algorithm, LONG_KEY.public_key),
        dnsrecords.spf(DOMAIN, PLAN),
        dnsrecords.dmarc(DOMAIN, "v=DMARC1; p=reject; rua=mailto:x@acme.test"),
    ):
        dns_server.set_text(record.owner, record.data)
    dns_server.set("mta.test", "A", "192.0.2.1")
    dns_server.set("mta.test", "AAAA", "2001:db8::1")
    dns_server.set("bounces.acme.test", "MX", "10 BOUNCES.test.")
    dns_server.set("track.acme.test", "CNAME", "links.test.")
    wanted = Wanted(DOMAIN, "token", False, (KEY, LONG_KEY), WANTED.return_path_host, WANTED.tracking_host)
    found = await checker(dns_server).check(wanted)
    assert {check.state for check in found} == {CheckState.OK}, found
    assert len(found) == 7


@pytest.mark.parametrize(
    ("texts", "state", "said"),
    [
        (["v=DKIM1; k=ed25519; p=AAAA"], CheckState.MISMATCH, "another key"),
        (["v=DKIM1; k=ed25519; p="], CheckState.MISMATCH, "revoked"),
        (["v=DKIM1; k=ed25519; p=AAAA", "other"], CheckState.MISMATCH, "2 TXT records"),
    ],
)
async def test_a_wrong_key_is_told(dns_server: DnsServer, texts: list[str], state: CheckState, said: str) -> None:
    dns_server.set("s1._domainkey.acme.test", "TXT", *(f'"{text}"' for text in texts))
    found = await checked(dns_server, CheckKind.DKIM)
    assert (found.state, found.selector, sorted(found.found)) == (state, "s1", sorted(texts))
    assert said in found.explanation


@pytest.mark.parametrize(
    ("records", "state", "said"),
    [
        (["v=spf1 a:mta.test -all"], CheckState.OK, ""),
        (["v=spf1 ip4:192.0.2.0/24 -all"], CheckState.OK, ""),
        (["v=spf1 include:one.test -all"], CheckState.OK, ""),
        (["v=spf1 redirect=one.test"], CheckState.OK, ""),
        (["v=spf1 mx:mail.test ~all", "other=1"], CheckState.OK, ""),
        (["v=spf1 exists:%{ir}.%{v}.list.test -all"], CheckState.OK, ""),
        (["v=spf1 -all"], CheckState.MISMATCH, "does not pass (fail); replace it by: v=spf1 a:mta.test -all"),
        (["v=spf1 include:none.test -all"], CheckState.MISMATCH, "without an SPF record"),
        (["v=spf1 mx ?all"], CheckState.MISMATCH, "(neutral); replace it by: v=spf1 a:mta.test mx ?all"),
        (
            ["v=spf1 a -all", "v=spf1 mx -all"],
            CheckState.MISMATCH,
            "replace all of them by: v=spf1 a:mta.test a mx -all",
        ),
        (["v=spf1 nonsense -all"], CheckState.MISMATCH, '"nonsense" is no mechanism'),
        (["v=spf1 include:loop.test -all"], CheckState.MISMATCH, "more than 10 DNS look-ups"),
        (["v=spf1 a:v1.test a:v2.test a:v3.test a:mta.test -all"], CheckState.MISMATCH, "does not exist"),
    ],
)
async def test_spf_is_evaluated(dns_server: DnsServer, records: list[str], state: CheckState, said: str) -> None:
    dns_server.set("mta.test", "A", "192.0.2.1")
    dns_server.set("one.test", "TXT", '"v=spf1 include:two.test ?all"')
    dns_server.set("two.test", "TXT", '"v=spf1 a:mta.test -all"')
    dns_server.set("loop.test", "TXT", '"v=spf1 include:loop.test -all"')
    dns_server.set("mail.test", "MX", "10 mta.test.")
    dns_server.set("1.2.0.192.in-addr.list.test", "A", "127.0.0.2")
    dns_server.set(DOMAIN, "TXT", *(f'"{text}"' for text in records))
    found = await checked(dns_server, CheckKind.SPF)
    assert (found.state, said in found.explanation) == (state, True), found
    if state is CheckState.MISMATCH and "nonsense" not in records[0]:
        assert found.record.data.startswith("v=spf1 a:mta.test ")
        dns_server.set_text(DOMAIN, found.record.data)
        again = await checked(dns_server, CheckKind.SPF)
        assert again.state is CheckState.OK, "what was advised does not help"


async def test_spf_by_an_include_of_ours(dns_server: DnsServer) -> None:
    plan = SendingPlan(("mta.test",), "spf.barua.test", "bounces.test", "links.test")
    dns_server.set("mta.test", "A", "192.0.2.1")
    dns_server.set("spf.barua.test", "TXT", '"v=spf1 ip4:192.0.2.1 -all"')
    missing = await checked(dns_server, CheckKind.SPF, plan=plan)
    assert missing.record.data == "v=spf1 include:spf.barua.test ~all"
    dns_server.set_text(DOMAIN, missing.record.data)
    assert (await checked(dns_server, CheckKind.SPF, plan=plan)).state is CheckState.OK


async def test_spf_for_sources(dns_server: DnsServer) -> None:
    sources = ("192.0.2.7", "2001:db8::7")
    dns_server.set("mta.test", "A", "192.0.2.1")
    dns_server.set(DOMAIN, "TXT", '"v=spf1 a:mta.test -all"')
    mixed = Wanted(DOMAIN, "", False, (), sources=sources)
    found = await checked(dns_server, CheckKind.SPF, mixed)
    assert "192.0.2.7 does not pass (fail)" in found.explanation
    assert found.record.data == "v=spf1 a:mta.test ip4:192.0.2.7 ip6:2001:db8::7 -all"
    alone = Wanted(DOMAIN, "", False, (), sources=sources, from_hosts=False)
    found = await checked(dns_server, CheckKind.SPF, alone)
    assert found.record.data == "v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 a:mta.test -all"
    dns_server.set_text(DOMAIN, found.record.data)
    assert (await checked(dns_server, CheckKind.SPF, alone)).state is CheckState.OK
    included = SendingPlan(("mta.test",), "spf.barua.test", "bounces.test", "links.test")
    dns_server.set("spf.barua.test", "TXT", '"v=spf1 a:mta.test -all"')
    dns_server.set(DOMAIN, "TXT", '"v=spf1 include:spf.barua.test -all"')
    found = await checked(dns_server, CheckKind.SPF, mixed, included)
    assert (found.state, "tell your provider" in found.explanation) == (CheckState.MISMATCH, True)


async def test_spf_when_our_hosts_have_no_address(dns_server: DnsServer) -> None:
    dns_server.set(DOMAIN, "TXT", '"v=spf1 A:MTA.test -all"')
    assert (await checked(dns_server, CheckKind.SPF)).state is CheckState.OK
    dns_server.set(DOMAIN, "TXT", '"v=spf1 mx -all"')
    found = await checked(dns_server, CheckKind.SPF)
    assert "no address in the DNS" in found.explanation


@pytest.mark.parametrize(
    ("owner", "text", "signing_off", "state", "said"),
    [
        ("_dmarc.acme.test", "v=DMARC1; p=none", False, CheckState.OK, "receivers only report; quarantine or reject"),
        ("_dmarc.acme.test", "v=DMARC1; p=reject; adkim=s", False, CheckState.OK, "aligns under strict"),
        ("_dmarc.acme.test", "v=DMARC1; p=reject; aspf=s", True, CheckState.OK, "SPF of exactly this domain"),
        ("_dmarc.acme.test", "v=DMARC1; p=all", False, CheckState.MISMATCH, 'p= is "all"'),
        ("_dmarc.acme.test", "v=spf1 -all", False, CheckState.MISSING, "there is no DMARC record"),
    ],
)
async def test_dmarc_and_what_follows(
    dns_server: DnsServer, owner: str, text: str, signing_off: bool, state: CheckState, said: str
) -> None:
    dns_server.set_text(owner, text)
    wanted = Wanted(DOMAIN, "token", signing_off, ())
    found = await checked(dns_server, CheckKind.DMARC, wanted)
    assert (found.state, said in found.explanation) == (state, True), found.explanation


async def test_dmarc_of_a_name_above(dns_server: DnsServer) -> None:
    dns_server.set_text("_dmarc.acme.test", "v=DMARC1; p=none; sp=reject")
    found = await checked(dns_server, CheckKind.DMARC, Wanted("a.b.acme.test", "token", False, ()))
    assert "the policy for a.b.acme.test is reject, from _dmarc.acme.test" in found.explanation
    assert await checker(dns_server).dmarc_policy("b.acme.test") is DmarcPolicy.REJECT
    assert await checker(dns_server).dmarc_policy("acme.test") is DmarcPolicy.NONE
    assert await checker(dns_server).dmarc_policy("test") is DmarcPolicy.NONE


async def test_hosts_that_lead_elsewhere(dns_server: DnsServer) -> None:
    dns_server.set("bounces.acme.test", "MX", "10 other.test.")
    dns_server.set("track.acme.test", "CNAME", "other.test.")
    for kind, shown in ((CheckKind.RETURN_PATH, "MX other.test"), (CheckKind.TRACKING, "CNAME other.test")):
        found = await checked(dns_server, kind)
        assert (found.state, found.found) == (CheckState.MISMATCH, (shown,))
        assert "leads to other.test instead of" in found.explanation


async def test_a_dns_that_is_away_is_an_error_of_its_own(dns_server: DnsServer) -> None:
    for owner in (f"_barua-challenge.{DOMAIN}", DOMAIN, f"_dmarc.{DOMAIN}", f"s1._domainkey.{DOMAIN}"):
        dns_server.fail(owner, Failure.SERVFAIL)
    states = {check.kind: check.state for check in await checker(dns_server).check(WANTED)}
    assert states.pop(CheckKind.RETURN_PATH) is states.pop(CheckKind.TRACKING) is CheckState.MISSING
    assert set(states.values()) == {CheckState.ERROR}
    with pytest.raises(DnsAway):
        await checker(dns_server).dmarc_policy(DOMAIN)


async def test_a_silent_server_costs_one_round_and_does_not_block(
    dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "QUESTION_SECONDS", 1.0)
    for owner in _all_owners():
        dns_server.fail(owner, Failure.DROP)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    started = time.monotonic()
    found = await checker(dns_server).check(WANTED)
    taken = time.monotonic() - started
    ticker.cancel()
    assert {check.state for check in found} == {CheckState.ERROR}
    assert taken < 5.0  # six names one after the other would take longer
    assert ticks > 10


async def test_a_round_that_is_given_up_leaves_nothing_behind(dns_server: DnsServer) -> None:
    for owner in _all_owners():
        dns_server.fail(owner, Failure.DROP)
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await checker(dns_server).check(WANTED)
    assert asyncio.all_tasks() == before


def _all_owners() -> Sequence[str]:
    names = ("", "_barua-challenge.", "_dmarc.", "s1._domainkey.", "bounces.", "track.")
    return [f"{name}{DOMAIN}" for name in names]


async def test_a_record_that_was_just_published_is_seen(dns_server: DnsServer) -> None:
    checks = checker(dns_server)
    assert (await checks.check_challenge(DOMAIN, "token")).state is CheckState.MISSING
    dns_server.set_text(f"_barua-challenge.{DOMAIN}", "barua-verify=token")
    assert (await checks.check_challenge(DOMAIN, "token")).state is CheckState.OK


async def test_a_key_that_was_made_for_the_claim_proves_it(dns_server: DnsServer) -> None:
    checks, ours = checker(dns_server), replace(KEY, ours=True)
    wanted = replace(WANTED, keys=(ours,))
    record = dnsrecords.dkim(DOMAIN, KEY.selector, KEY.algorithm, KEY.public_key)
    assert (await checks.check_challenge(DOMAIN, "token", [ours])).state is CheckState.MISSING
    dns_server.set_text(record.owner, record.data)
    proof = await checks.check_challenge(DOMAIN, "token", [LONG_KEY, ours])
    assert (proof.kind, proof.state, "proves it as well" in proof.explanation) == (
        CheckKind.CHALLENGE,
        CheckState.OK,
        True,
    )
    assert (await checks.check(wanted))[0] == replace(proof, record=(await checks.check(wanted))[0].record)
    # One that a tenant brought along may be another's as well.
    assert (await checks.check_challenge(DOMAIN, "token", [KEY])).state is CheckState.MISSING
    assert (await checks.check(replace(wanted, keys=(KEY,))))[0].state is CheckState.MISSING
