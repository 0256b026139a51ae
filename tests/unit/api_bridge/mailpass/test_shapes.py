"""From MailPass's JSON to messages, and ids in paths."""

import json
from email import policy
from email.parser import BytesParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge.dialects.mailpass import shapes
from api_bridge.dialects.mailpass.shapes import Composer, Defaults
from api_bridge.problems import Problem
from api_bridge.tracking.tracker import Tracker
from mta.message import ids

COMPOSER = Composer(Tracker("", None), True, True, "mail.example.org", "192.0.2.1")
LEAST = {"to": "ann@example.net", "subject": "s", "text": "t"}


def refused(item: Any, defaults: Defaults = Defaults()) -> str:  # noqa: B008
    with pytest.raises(Problem) as caught:
        shapes.letter(item, defaults)
    assert caught.value.status == 400
    return caught.value.message


def test_a_whole_message() -> None:
    item = {
        **LEAST,
        "html": "<p>Hi</p>",
        "from_email": "a@b.example",
        "from_name": "A",
        "cc": ["c@b.example", "c@b.example"],
        "bcc": ["d@b.example"],
        "tags": ["x", "x", "y"],
        "metadata": {"é": [1]},
    }
    made = COMPOSER.compose(shapes.letter(item))
    assert (made.sender, list(made.recipients)) == ("a@b.example", ["ann@example.net", "c@b.example", "d@b.example"])
    assert (list(made.tags), made.from_display_name, made.whole, made.record_suppressed) == (["x", "y"], "", True, True)
    assert json.loads(made.properties) == {
        "dialect": "mailpass",
        "host": "mail.example.org",
        "from": {"email": "a@b.example", "name": "A"},
        "to": {"email": "ann@example.net", "cc": [{"email": "c@b.example"}], "bcc": [{"email": "d@b.example"}]},
        "metadata": {"é": [1]},
        "client_address": "192.0.2.1",
    }
    message = BytesParser(policy=policy.default).parsebytes(made.content)
    assert (message["From"], message["Cc"], message["Bcc"]) == ("A <a@b.example>", "c@b.example", None)


def test_an_item_wins_over_the_batch() -> None:
    defaults = Defaults("top@b.example", "Top")
    top = shapes.letter(LEAST, defaults)
    assert (top.from_email, top.from_name) == defaults
    letter = shapes.letter({**LEAST, "from_name": "Own"}, defaults)
    assert (letter.from_email, letter.from_name) == ("top@b.example", "Own")


@pytest.mark.parametrize("name", ["html", "from_email", "from_name", "reply_to", "cc", "bcc", "tags", "metadata"])
def test_null_is_absence(name: str) -> None:
    assert shapes.letter({**LEAST, name: None}) == shapes.letter(LEAST)


def test_too_much_is_told() -> None:
    many = [f"a{number}@b.example" for number in range(600)]
    assert refused({**LEAST, "cc": many, "bcc": [f"x{one}" for one in many]}).startswith("The message has 1201")
    assert "too large" in _compose_refused({**LEAST, "metadata": {"a": "é" * 16_400}})
    assert COMPOSER.compose(shapes.letter({**LEAST, "metadata": {"a": "é" * 16_000}})).properties


def _compose_refused(item: Any) -> str:
    with pytest.raises(Problem) as caught:
        COMPOSER.compose(shapes.letter(item))
    return caught.value.message


@given(st.integers(0, ids.MAX_ID))
def test_message_ids_are_those_of_the_mta(id_: int) -> None:
    text = shapes.message_id(id_, "mail.example.org")
    assert text == ids.message_id(id_, "mail.example.org")
    assert shapes.id_of(str(id_)) == (str(id_), "")
    if ids.unix_time(id_) < 10**10:
        assert shapes.id_of(text) == shapes.id_of(text.strip("<>")) == (text.strip("<>"), "mail.example.org")


@pytest.mark.parametrize(
    "text",
    ["", "<", "abc123@x", "<abc123@mailpass.im>", "<abc123.1706600000@x", "abc123.1706600000@x>", "abc123.1706600000@",
     "abc123.1706600000@a b", "ABC123.1706600000@x", "-1", "+1", "01", "1.0", str(1 << 63), "1" * 100, "msg_1",
     "../1", "\u0661"],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    assert shapes.id_of(text) is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), lambda inner:
       st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LEAST, "html", "cc", "metadata"]), inner),
       max_leaves=10))  # fmt: skip
def test_any_json_is_a_message_or_told(value: Any) -> None:
    try:
        COMPOSER.compose(shapes.letter(value))
    except Problem as problem:
        assert problem.status == 400
        assert problem.message.endswith(".")
