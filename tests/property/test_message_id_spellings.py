"""Control reads every spelling of an id that the worker writes, to the same id, and nothing else."""

from datetime import UTC, timedelta

from hypothesis import given
from hypothesis import strategies as st

from control.model import messageids
from mta.message import ids as written

IDS = st.integers(0, messageids.MAX_ID) | st.integers(0, 10**19 // 10) | st.sampled_from([0, 1, messageids.MAX_ID])
HOSTS = st.sampled_from(["mail.example.net", "a.test", "xn--bcher-kva.example"])


@given(id_=IDS, host=HOSTS)
def test_each_spelling_reads_back(id_: int, host: str) -> None:
    message_id = written.message_id(id_, host)
    for text in (
        str(id_),
        written.mspace(id_),
        written.uuid(id_),
        written.uuid(id_).upper(),
        written.sendpulse(id_),
        message_id,
        message_id[1:-1],
    ):
        assert messageids.parse(text) == id_, text


@given(text=st.text(max_size=60) | st.from_regex(r"[0-9a-z]{6}-[0-9a-z]{6}-[0-9a-z]{2}|[0-9a-z]{6}\.[0-9]{10}@a"))
def test_what_is_none_of_them_is_none(text: str) -> None:
    found = messageids.parse(text)
    if found is not None:
        spellings = (str(found), written.mspace(found), written.uuid(found), written.sendpulse(found))
        token = written.message_id_token(found)
        assert text.lower() in spellings or text.strip("<>").startswith(f"{token}@")


@given(id_=IDS)
def test_days_and_times_enclose_their_ids(id_: int) -> None:
    day = messageids.day_of(id_)
    assert messageids.first_of_day(day) <= id_
    assert id_ < messageids.first_of_day(day + timedelta(days=1)) or id_ >> 21 == (1 << 42) - 1
    time = messageids.time_of(id_)
    assert time.astimezone(UTC).date() == day
    assert messageids.first_at(time) <= id_ <= messageids.first_at(time) | (1 << 21) - 1
    assert messageids.uuid(id_) == written.uuid(id_)
