"""The rules of credentials, pure: secrets and their ends, networks, scopes that may be given away, failures."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control import failures
from control.failures import FailureLimit
from control.model import apikeys, credentials
from control.model.apikeys import KeptSecret
from control.model.caller import Access, Caller, Role
from control.permissions import PERMISSIONS, SCOPES
from mta.runtime import networks
from mta.runtime.refusals import Reason, Refusal

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_a_secret_is_right_and_the_one_before_in_its_time() -> None:
    first = apikeys.generate()
    kept = KeptSecret(first.secret_sha256, first.last_four)
    second = apikeys.generate(first.key_id)
    assert second.text.startswith(f"bk_{first.key_id}_")
    rotated = kept.rotated(second, NOW)
    assert rotated.last_four == second.secret[-4:]
    assert apikeys.matches(first.secret, kept, NOW)
    assert apikeys.matches(second.secret, rotated, NOW)
    assert apikeys.matches(first.secret, rotated, NOW - SECOND)
    assert not apikeys.matches(first.secret, rotated, NOW)
    assert not apikeys.matches(first.secret, kept.rotated(second, None), NOW - SECOND)
    third = rotated.rotated(apikeys.generate(), NOW)
    assert not apikeys.matches(first.secret, third, NOW - SECOND)
    assert not apikeys.matches(first.secret, None, NOW)


@given(st.text())
def test_no_other_text_is_the_secret(text: str) -> None:
    key = apikeys.generate()
    assert not apikeys.matches(text, KeptSecret(key.secret_sha256, key.last_four), NOW)
    key_id, secret = apikeys.split(text)
    assert (key_id, secret) == ("", "") or text == f"bk_{key_id}_{secret}"
    assert apikeys.split(key.text + text) == (key.key_id, key.secret + text)


def test_nothing_about_a_secret_is_shown() -> None:
    key = apikeys.generate()
    assert key.secret not in repr(key)
    assert str(key.secret_sha256) not in repr(KeptSecret(key.secret_sha256, "abcd", key.secret_sha256))


@given(st.lists(st.ip_addresses(), max_size=credentials.MAX_NETWORKS))
def test_networks_have_one_spelling(addresses: list[object]) -> None:
    kept = credentials.allowed_networks([str(address).upper() for address in addresses], "f")
    assert len(kept) == len({networks.canonical(str(address)) for address in addresses})
    assert credentials.allowed_networks(kept, "f") == kept


@pytest.mark.parametrize("text", ["", "x", "10.0.0.1/8", "10.0.0.0/33", "fe80::1%lo", "10.0.0.0/8 "])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        credentials.allowed_networks([text], "login.allowed_networks")
    assert refused.value.field == "login.allowed_networks"
    assert text in refused.value.message


def test_ends() -> None:
    assert credentials.expiry(None, "f", NOW) is None
    assert credentials.expiry(NOW + SECOND, "f", NOW) == NOW + SECOND
    with pytest.raises(Refusal):
        credentials.expiry(NOW, "f", NOW)
    assert not credentials.ended(None, NOW)
    assert not credentials.ended(NOW + SECOND, NOW)
    assert credentials.ended(NOW, NOW)
    for period in (timedelta(0), credentials.MAX_GRACE):
        assert credentials.grace(period, "f") == period
    for period in (-SECOND, credentials.MAX_GRACE + SECOND):
        with pytest.raises(Refusal):
            credentials.grace(period, "f")


@given(st.sets(st.sampled_from(sorted(SCOPES))), st.sets(st.sampled_from(sorted(SCOPES)), min_size=1))
def test_what_may_be_given_away_adds_no_method(own: set[str], given_away: set[str]) -> None:
    giver = Caller(Role.RESELLER, "t", frozenset(own))
    taker = Caller(Role.RESELLER, "t", frozenset(given_away))
    callable_by = [
        {path for path, permission in PERMISSIONS.items() if caller.may(permission.access, permission.scope)}
        for caller in (giver, taker)
    ]
    if giver.may_grant(given_away):
        assert callable_by[1] <= callable_by[0]
    if not callable_by[1] <= callable_by[0]:
        assert not giver.may_grant(given_away)
    assert Caller(Role.RESELLER, "t").may_grant(given_away)


def test_no_scope_reaches_what_belongs_to_nodes_and_the_operator() -> None:
    every = Caller(Role.RESELLER, "operator", SCOPES)
    for permission in PERMISSIONS.values():
        if permission.access in (Access.NODE, Access.OPERATOR, Access.INSPECT):
            assert not every.may(permission.access, permission.scope)
    assert "nodes" not in SCOPES


def test_failures_are_counted_by_key_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = FailureLimit(2)
    for _ in range(2):
        limit.check("a")
        limit.failed("a")
    with pytest.raises(Refusal) as refused:
        limit.check("a")
    assert refused.value.reason is Reason.RATE_LIMITED
    assert refused.value.retry_after
    limit.check("b")
    monkeypatch.setattr(failures, "MAX_COUNTED", 2)
    for key in ("b", "c"):
        limit.failed(key)
    limit.check("a")
    monkeypatch.setattr(failures, "WINDOW_SECONDS", 0.0)
    for _ in range(5):
        limit.failed("d")
    limit.check("d")
