"""Strict JSON: what is refused, how it is called, how long that takes."""

import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge import body
from api_bridge.problems import Problem

DEEP = b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"{", "is not JSON: line 1 column"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
        (b'{"a": 1} x', "is not JSON"),
        (b'{"a": "\n"}', "is not JSON"),
        (b'{"a": 01}', "is not JSON"),
        (b'{"a": 1, "a": 2}', 'has the field "a" twice'),
        (b'{"a": {"b": 1, "\\u0062": 2}}', 'has the field "b" twice'),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": "\\ude00\\ud83d"}', "surrogate"),
        (b'{"a": "\xff"}', "is not UTF-8: octet 7"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (DEEP, "nested more than 64"),
        (DEEP[:50_000], "nested more than 64"),
        (DEEP * 2, "more than 100000 values"),
        (b"]" * 1000 + b"[" * 1000, "is not JSON"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64"),
        (b'{"a": [' + b"0," * 100_001 + b"0]}", "more than 100000 values"),
    ],
)
def test_refused(data: bytes, text: str) -> None:
    with pytest.raises(Problem, match=text) as caught:
        body.parse_object(data)
    assert caught.value.status == 400
    assert "Traceback" not in caught.value.message


def test_form_data_is_called_so() -> None:
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        with pytest.raises(Problem, match="not form data"):
            body.parse_object(b"to=a%40b.example&subject=x", kind)


def test_json_under_another_content_type_is_taken() -> None:
    assert body.parse_object(b'{"a": 1}', "application/x-www-form-urlencoded") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "document"),
    [
        (b' {"a": [1, 2.5, true, null, "x"]} ', {"a": [1, 2.5, True, None, "x"]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a":' * 64 + b"1" + b"}" * 64, None),
        (b'{"a": "' + b"[{" * 5000 + b'\\"[\\\\"}', {"a": "[{" * 5000 + '"[\\'}),
        (b"{}", {}),
    ],
)
def test_taken(data: bytes, document: object) -> None:
    result = body.parse_object(data)
    assert document is None or result == document


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"' + b'\\"' * 5_000_000,
        b'{"a":' + b'"' * 10_000_001,
        b"[" * 10_000_000,
        b'{"a":"' + b"," * 10_000_000 + b'"',
        b'{"' + b'","'.join(b"%d" % number for number in range(1_000_000)) + b'"}',
        b"{" + b",".join(b'"%d":1' % number for number in range(1_000_000)) + b"}",
        b"\\" * 10_000_000,
    ],
    ids=["escapes", "quotes", "brackets", "commas", "names", "members", "backslashes"],
)
def test_large_hostile_bodies_are_refused_quickly(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(Problem) as caught:
        body.parse_object(data)
    assert caught.value.status == 400
    assert time.process_time() - started < 5


@given(
    st.binary(max_size=200) | st.text(st.sampled_from('{}[]":,\\u0d8aAeE+-.1 \n\x00tfn'), max_size=80).map(str.encode)
)
def test_any_octets_give_an_object_or_a_400(data: bytes) -> None:
    try:
        document = body.parse_object(data)
    except Problem as problem:
        assert problem.status == 400
    else:
        assert json.loads(data.removeprefix(b"\xef\xbb\xbf")) == document


def test_the_budget_is_kept() -> None:
    budget = body.Budget(100)
    budget.take(60)
    with pytest.raises(Problem) as caught:
        budget.take(41)
    assert caught.value.status == 503
    assert caught.value.headers["retry-after"] == "5"
    budget.take(40)
    budget.give(100)
    assert budget.used == 0


def test_millions_of_strings_are_not_read_one_by_one() -> None:
    """Two seconds and 1.4 GB at the size of a body, in which nothing else runs."""
    data = b'{"a":[' + b"[]," * 100 + b'""' * 5_000_000
    tracemalloc.start()
    with pytest.raises(Problem, match="more than 100000 values"):
        body.parse_object(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * len(data)


def test_names_and_values_are_all_strings() -> None:
    document = {"a" * 5 + str(number): "," for number in range(100_000)}
    assert body.parse_object(json.dumps(document).encode()) == document
