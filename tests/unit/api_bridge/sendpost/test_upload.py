"""SendPost: files that are uploaded, statistics of days, and what is kept of messages, however odd."""

from datetime import date
from typing import Any

import pytest

from barua.control.v1 import history_service_pb2 as history
from barua.control.v1 import statistics_service_pb2 as statistics

from api_bridge.dialects.sendpost import counters, messages, upload
from api_bridge.dialects.sendpost.errors import SendPostProblem

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n'
    b'--b\r\nContent-Type: text/csv\r\nContent-Disposition: form-data; name="fileinput"; filename="a.csv"\r\n\r\n'
    b"a@b.test\r\nc@d.test\r\n--b--\r\n"
)


def test_a_file_is_found_in_its_form() -> None:
    for kind in ("multipart/form-data; boundary=b", 'Multipart/Form-Data; charset=utf-8; boundary="b"'):
        assert upload.content(FORM, kind) == b"a@b.test\r\nc@d.test"
    assert upload.content(b"a@b.test\n", "text/csv") == b"a@b.test\n"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (FORM, "multipart/form-data"),
        (FORM, "multipart/form-data; boundary=c"),
        (b"", "multipart/form-data; boundary=b"),
        (FORM.replace(b"fileinput", b"file"), "multipart/form-data; boundary=b"),
        (b"--b\r\n\r\n" * 100, "multipart/form-data; boundary=b"),
    ],
)
def test_forms_without_a_file_are_refused(data: bytes, kind: str) -> None:
    with pytest.raises(SendPostProblem) as problem:
        upload.content(data, kind)
    assert problem.value.status == 422


def test_lines_are_read() -> None:
    table = b'name,Email,type\r\n"Ann, B",a@b.test,manual\r\n\r\nBob\r\n'
    assert upload.addresses(b"\xef\xbb\xbf" + table) == [
        (1, "a@b.test", ["Ann, B", "a@b.test", "manual"]),
        (2, "", ["Bob"]),
    ]
    assert upload.addresses(b"a@b.test\nc@d.test") == [(1, "a@b.test", ["a@b.test"]), (2, "c@d.test", ["c@d.test"])]
    assert upload.addresses(b"") == []


@pytest.mark.parametrize(
    "cell", ["=cmd|'/C calc'!A0@b.test", "+1@b.test", "-1@b.test", "@SUM(1)", "a@b.test", "'x@b.test"]
)
def test_no_cell_of_a_file_is_a_formula_and_addresses_come_back(cell: str) -> None:
    written = upload.marked(cell)
    assert not written.startswith(("=", "+", "-", "@"))
    assert upload.addresses(f'email\n"{written}"\n'.encode())[0][1] == cell


@pytest.mark.parametrize("data", [b"\xff", b"x" * 5000, b'"' + b"x\n" * 200_000])
def test_files_that_cannot_be_read_are_refused(data: bytes) -> None:
    with pytest.raises(SendPostProblem) as problem:
        upload.rows(data)
    assert (problem.value.status, problem.value.param) == (422, "fileinput")


def test_every_day_has_an_entry() -> None:
    found = [statistics.DailyCounter(day="2024-02-29", counts=statistics.Counts(processed_count=3, complained_count=1))]
    entries = counters.daily(date(2024, 2, 28), date(2024, 3, 1), found)
    assert [(entry.date, entry.processed) for entry in entries] == [
        ("2024-02-28", 0),
        ("2024-02-29", 3),
        ("2024-03-01", 0),
    ]
    assert entries[1].stat == entries[1].stats
    assert (entries[1].spam, entries[1].spams) == (1, 1)


def test_a_range_that_is_left_out_ends_today() -> None:
    today = date(2024, 3, 1)
    assert counters.days({"from": None, "to": None}, 366, today) == (date(2024, 2, 1), today)
    assert counters.days({"from": date(2024, 2, 20), "to": None}, 366, today) == (date(2024, 2, 20), today)
    assert counters.days({"from": None, "to": date(2024, 1, 30)}, 366, today) == (date(2024, 1, 1), date(2024, 1, 30))


@pytest.mark.parametrize(
    "given",
    [None, 1, "x", [], {"email": 1, "name": []}, {"cc": "x", "bcc": [1, None, {"name": "x"}]}, {"custom_fields": [1]}],
)
def test_what_other_programs_keep_with_a_message_does_no_harm(given: Any) -> None:
    record = history.MessageRecord(recipient="a@b.test")
    shown = messages._recipient(record, messages._object(given), legacy=True)
    assert (shown.email, shown.name, shown.cc, shown.bcc, shown.customFields) == ("a@b.test", "", [], [], {})
    assert messages._object_in("{") == messages._object_in("[]") == {}
    assert messages._files(given, legacy=False) in (None, [messages.SentFile("")])
