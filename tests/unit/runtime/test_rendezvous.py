"""Keys and the places they belong to."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mta.runtime.rendezvous import place_of

PLACES = st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True)


@given(st.text(), PLACES)
def test_the_order_of_places_does_not_matter(key: str, places: list[str]) -> None:
    found = places[place_of(key, places)]
    assert found == places[::-1][place_of(key, places[::-1])]


@given(st.text(), PLACES, st.text(min_size=1))
def test_one_more_place_takes_only_its_own(key: str, places: list[str], new: str) -> None:
    before = places[place_of(key, places)]
    more = [*places, *({new} - {*places})]
    assert more[place_of(key, more)] in (before, new)


def test_keys_spread_evenly() -> None:
    places = [f"unix:/run/worker-{number}.sock" for number in range(4)]
    counts = Counter(place_of(f"key-{number}", places) for number in range(4000))
    assert all(900 <= counts[place] <= 1100 for place in range(4))
