"""Ids of messages, as the APIs spell them: the same as the MTA and control do."""

from hypothesis import given
from hypothesis import strategies as st

from api_bridge import messageids
from control.model import messageids as known
from mta.message import ids

ANY = st.integers(0, (1 << 63) - 1)


@given(ANY)
def test_spellings_are_those_of_the_mta(id_: int) -> None:
    assert messageids.base36(id_) == ids.sendpulse(id_)
    assert messageids.uuid(id_) == ids.uuid(id_)
    assert messageids.unix_ms(id_) == ids.unix_ms(id_)


@given(ANY)
def test_control_reads_them(id_: int) -> None:
    assert known.parse(messageids.uuid(id_)) == id_
    assert known.parse(messageids.base36(id_)) == id_
