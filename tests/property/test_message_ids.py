"""Ids: order, and round trips through every spelling."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from mta.message import ids

any_id = st.integers(0, ids.MAX_ID)
any_clock = st.lists(st.integers(0, ids.EPOCH_MS + (1 << 41)), min_size=1, max_size=200)


@given(any_id)
def test_every_spelling_is_read_back(id_: int) -> None:
    assert ids.from_decimal(str(id_)) == id_
    assert ids.from_mspace(ids.mspace(id_)) == id_
    assert ids.from_uuid(ids.uuid(id_)) == id_
    assert ids.from_sendpulse(ids.sendpulse(id_)) == id_
    assert ids.from_message_id(ids.message_id(id_, "demo.test")) == (id_, "demo.test")


@given(any_id)
def test_spellings_carry_the_time(id_: int) -> None:
    seconds = ids.unix_time(id_)
    assert int(ids.sendpulse(id_)[:6], 36) == seconds % 36**6
    assert ids.message_id_token(id_).split(".")[1] == str(seconds)
    assert int(ids.uuid(id_).replace("-", "")[:12], 16) == ids.unix_ms(id_)


@given(any_clock, st.integers(0, ids.MAX_SHARD), any_id.filter(lambda id_: id_ < 1 << 62))
def test_ids_only_ever_rise(clock: list[int], shard: int, last: int) -> None:
    maker = ids.IdMaker(shard, last)
    for now in clock:
        id_ = maker.next(now)
        assert id_ > last
        assert ids.shard(id_) == shard
        assert ids.unix_ms(id_) >= now
        last = id_


@given(
    st.text(max_size=40) | st.from_regex(r"[0-9a-z]{6}-[0-9a-z]{6}-[0-9a-z]{2}", fullmatch=True) | st.uuids().map(str)
)
def test_one_id_has_one_text(text: str) -> None:
    """Whatever is read is written the same way; anything else is a ValueError and nothing worse."""
    for read, write in (
        (ids.from_decimal, str),
        (ids.from_mspace, ids.mspace),
        (ids.from_uuid, ids.uuid),
        (ids.from_sendpulse, ids.sendpulse),
        (ids.from_message_id_token, ids.message_id_token),
    ):
        with contextlib.suppress(ValueError):
            assert write(read(text)) == text
    with contextlib.suppress(ValueError):
        ids.from_message_id(text)
