"""What tenants say of their pools: names, data of strategies, shares by volume."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.model import egress
from mta.runtime.refusals import Refusal

ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]


@pytest.mark.parametrize("name", ["a", "x" * 100, "Straße 5", "a  b"])
def test_names(name: str) -> None:
    assert egress.pool_name(name, "f") == name


@pytest.mark.parametrize("name", ["", "x" * 101, " a", "a ", "a\nb", "a\0b", "a\u2028b", "\u202e"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        egress.pool_name(name, "f")
    assert caught.value.field == "f"


def test_data_of_a_strategy_is_an_object() -> None:
    assert egress.routing_metadata("", "f") == "{}"
    assert egress.routing_metadata('{"a": [1]}', "f") == '{"a": [1]}'
    for text in ("[]", "1", "{", "x", "[" * 5000, json.dumps({"a": "x" * 10_000})):
        with pytest.raises(Refusal):
            egress.routing_metadata(text, "f")


@given(st.dictionaries(st.sampled_from(ADDRESSES), st.floats(0, 100) | st.integers(0, 100)))
def test_shares_are_weights(shares: dict[str, float]) -> None:
    weights = egress.volume_shares(json.dumps(shares), ADDRESSES, "f")
    assert list(weights) == ADDRESSES
    assert all(1 <= weight <= egress.MAX_WEIGHT for weight in weights.values())
    ordered = sorted(ADDRESSES, key=lambda address: shares.get(address, 0))
    assert [weights[address] for address in ordered] == sorted(weights.values())


@given(st.none() | st.booleans() | st.text() | st.floats(max_value=-0.01) | st.floats(min_value=100.01))
def test_what_is_no_percentage(value: object) -> None:
    with pytest.raises(Refusal) as caught:
        egress.volume_shares(json.dumps({ADDRESSES[0]: value}), ADDRESSES, "f")
    assert caught.value.field == "f"
