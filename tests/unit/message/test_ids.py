"""Ids: the clock's whims, the spellings, and what is refused."""

import pytest

from mta.message import ids

NOW = 1_763_763_540_123


def test_an_id_holds_time_shard_and_sequence() -> None:
    maker = ids.IdMaker(shard=3)
    maker.next(NOW)
    second = maker.next(NOW)
    assert ids.unix_ms(second) == NOW
    assert ids.unix_time(second) == NOW // 1000
    assert ids.shard(second) == 3
    assert second & ids.MAX_SEQUENCE == 1


def test_a_clock_that_goes_back_does_not_bring_ids_back() -> None:
    maker = ids.IdMaker(shard=1)
    first = maker.next(NOW)
    assert maker.next(NOW - 3_600_000) > first


def test_more_than_512_ids_in_a_millisecond_run_ahead_of_the_clock() -> None:
    maker = ids.IdMaker(shard=4095)
    made = [maker.next(NOW) for _ in range(2000)]
    assert made == sorted(set(made))
    assert ids.unix_ms(made[-1]) == NOW + 3
    assert maker.next(NOW + 4) > made[-1]


@pytest.mark.parametrize("other_shard", [0, 6, 7, 8, 4095])
def test_a_restart_goes_on_after_the_last_id(other_shard: int) -> None:
    last = ids.IdMaker(other_shard).next(NOW)
    assert ids.IdMaker(7, last).next(NOW - 10) > last


def test_a_clock_before_2024_still_gives_ids() -> None:
    maker = ids.IdMaker(shard=2)
    assert 0 < maker.next(0) < maker.next(0)


def test_shard_and_last_are_checked() -> None:
    with pytest.raises(ValueError, match="4096 is not between 0 and 4095"):
        ids.IdMaker(4096)
    with pytest.raises(ValueError, match="not a message id"):
        ids.IdMaker(1, last=1 << 63)


def test_the_year_2163_is_the_end() -> None:
    with pytest.raises(OverflowError, match="2163"):
        ids.IdMaker(0).next(ids.EPOCH_MS + (1 << 42))


def test_spellings_look_as_the_contracts_say() -> None:
    id_ = ids.IdMaker(3).next(NOW)
    assert ids.mspace(id_) == f"msg_{id_}"
    assert ids.uuid(id_)[14] == "7"
    assert ids.uuid(id_)[19] in "89ab"
    assert int(ids.uuid(id_)[:8] + ids.uuid(id_)[9:13], 16) == NOW
    group = ids.sendpulse(id_).split("-")
    assert [len(part) for part in group] == [6, 6, 2]
    assert int(group[0], 36) == NOW // 1000
    assert ids.message_id(id_, "demo.test") == f"<{ids.message_id_token(id_)}@demo.test>"
    assert ids.message_id_token(id_).endswith(f".{NOW // 1000}")


def test_the_message_id_is_read_with_and_without_brackets() -> None:
    id_ = ids.IdMaker(3).next(NOW)
    whole = ids.message_id(id_, "demo.test")
    assert ids.from_message_id(whole) == (id_, "demo.test")
    assert ids.from_message_id(whole[1:-1]) == (id_, "demo.test")


@pytest.mark.parametrize("id_", [0, 1, ids.MAX_ID, ids.MAX_ID - 1, 1 << 62, (1 << 21) - 1, 1 << 21])
def test_the_corners_survive_every_spelling(id_: int) -> None:
    assert ids.from_decimal(str(id_)) == id_
    assert ids.from_mspace(ids.mspace(id_)) == id_
    assert ids.from_uuid(ids.uuid(id_)) == id_
    assert ids.from_uuid(ids.uuid(id_).upper()) == id_
    assert ids.from_sendpulse(ids.sendpulse(id_)) == id_
    assert ids.from_message_id_token(ids.message_id_token(id_)) == id_


@pytest.mark.parametrize("id_", [-1, 1 << 63])
def test_what_is_no_id_cannot_be_spelled(id_: int) -> None:
    for spell in (ids.mspace, ids.uuid, ids.sendpulse, ids.message_id_token):
        with pytest.raises(ValueError, match="not a message id"):
            spell(id_)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "01",
        "1_0",
        " 1",
        "1\n",
        "\u0661",
        "9223372036854775808",
        "99999999999999999999999",
        "1.0",
        "0x1",
    ],
)
def test_malformed_decimals_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        ids.from_decimal(text)
    with pytest.raises(ValueError, match="message id"):
        ids.from_mspace("msg_" + text)


@pytest.mark.parametrize("text", ["", "12", "MSG_12", "msg-12", "msg_"])
def test_malformed_mspace_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        ids.from_mspace(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "019aa87f-d09b-4003-800c-73d85cdc2453",
        "019aa87f-d09b-7003-800c-73d85cdc2454",
        "019aa87fd09b7003800c73d85cdc2453",
        "{019aa87f-d09b-7003-800c-73d85cdc2453}",
        "019aa87f-d09b-7003-800c-73d85cdc245g",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
)
def test_foreign_uuids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        ids.from_uuid(text)


@pytest.mark.parametrize(
    "text", ["", "t63kno-49ksg0", "T63KNO-49KSG0-40", "t63kno-zzzzzz-40", "000000-000000-00", "zzzzzz-000000-zz"]
)
def test_malformed_sendpulse_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="message"):
        ids.from_sendpulse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "49ksg0",
        "49ksg0.1763763540",
        "49ksg0.1763763540@",
        "<49ksg0.1763763540@demo.test",
        "49ksg0.0763763540@demo.test",
        "49ksg0.176376354@demo.test",
        "zzzzzz.1763763540@demo.test",
        "49ksg0.1000000000@demo.test",
        "49ksg0.1763763540@demo@test",
        "<<49ksg0.1763763540@demo.test>>",
    ],
)
def test_foreign_message_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"message id|Message-ID|id of a message"):
        ids.from_message_id(text)


def test_of_all_check_digits_only_one_fits_each_span_of_time() -> None:
    spelled = ids.sendpulse(ids.IdMaker(3).next(NOW))
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    accepted = {}
    for last in (first + second for first in digits for second in digits):
        try:
            accepted[last] = ids.from_sendpulse(spelled[:-2] + last)
        except ValueError:
            continue
    assert spelled[-2:] in accepted
    assert [ids.sendpulse(id_)[-2:] for id_ in accepted.values()] == list(accepted)
    seconds = sorted(map(ids.unix_time, accepted.values()))
    assert seconds == [NOW // 1000 + span * 36**6 for span in range(len(seconds))]
