"""Small rules: times, what programs call themselves, ids, how problems look."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge import messageids
from api_bridge.dialects.sendpulse import agents, errors, lists, times
from api_bridge.problems import Problem
from mta.message import ids
from mta.runtime.bridgeoptions import SendPulseOptions
from mta.runtime.refusals import Reason, Refusal

IDS = st.integers(0, ids.MAX_ID)


@given(IDS)
def test_ids_are_written_and_read_as_the_mta_does(id_: int) -> None:
    text = messageids.base36(id_)
    assert text == ids.sendpulse(id_)
    assert messageids.from_base36(text) == id_ == messageids.from_decimal(str(id_))


@given(st.from_regex(r"[0-9a-z]{6}-[0-9a-z]{6}-[0-9a-z]{2}", fullmatch=True))
def test_other_texts_are_no_ids(text: str) -> None:
    try:
        expected = ids.from_sendpulse(text)
    except ValueError:
        expected = None
    assert messageids.from_base36(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "01", "9223372036854775808", "1.0", "٣", "9" * 5000])
def test_no_numbers(text: str) -> None:
    assert messageids.from_decimal(text) is None


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2016-04-28", (2016, 4, 28), (2016, 4, 29)),
        ("2016-04-28 14:34:00", (2016, 4, 28, 14, 34), (2016, 4, 28, 14, 34, 1)),
        ("2016-04-28T23:59:59", (2016, 4, 28, 23, 59, 59), (2016, 4, 29)),
        ("2024-02-29", (2024, 2, 29), (2024, 3, 1)),
    ],
)
def test_times(text: str, first: tuple[int, int, int], last: tuple[int, int, int]) -> None:
    assert times.moment("from", text).ToDatetime(UTC) == datetime(*first, tzinfo=UTC)
    assert times.end("to", text).ToDatetime(UTC) == datetime(*last, tzinfo=UTC)
    day = datetime(*first[:3], tzinfo=UTC)
    assert times.day("date", text) == (day, day + times.DAY)
    assert times.shown(times.moment("from", text)) == f"{datetime(*first):%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    "text", ["today", "2026-13-01", "2026-02-30", "0001-01-01", "9999-12-31", "2026-1-1", "2026-01-01 "]
)
def test_no_times(text: str) -> None:
    with pytest.raises(Problem) as caught:
        times.moment("from", text)
    assert (caught.value.status, caught.value.code, caught.value.message) == (422, 799, "Argument from is invalid")


@pytest.mark.parametrize(
    ("agent", "browser", "system"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/29.0.1547.57 Safari/537.36",
         "Chrome 29.0.1547.57", "Linux"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:17.0) Gecko/20130803 Thunderbird/17.0.8", "Thunderbird 17.0.8", "Linux"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36 Edg/120.0.2210",
         "Edge 120.0.2210", "Windows 10"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1",
         "Safari 17.0", "iOS"),
        ("Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1)", "Internet Explorer 8.0", "Windows 7"),
        ("Mozilla/5.0 (Windows NT 6.3; Trident/7.0; rv:11.0) like Gecko", "Internet Explorer 11.0", "Windows 8.1"),
        ("Microsoft Outlook 16.0.4266", "Outlook 16.0.4266", ""),
        ("", "", ""),
        ("\x00" * 5000, "", ""),
    ],
)  # fmt: skip
def test_agents(agent: str, browser: str, system: str) -> None:
    assert (agents.browser(agent), agents.system(agent)) == (browser, system)


@pytest.mark.parametrize(
    ("problem", "status", "body"),
    [
        (Problem(404, "There is nothing here."), 404, b'{"message":"Not Found","error_code":404}'),
        (Problem(429, "Slow."), 429, b'{"message":"More than 10 requests per second","error_code":2020202020}'),
        (Problem(405, "Not so."), 405, b'{"message":"Not so.","error_code":405}'),
        (errors.invalid("x", 12), 422, b'{"message":"Argument x is invalid","error_code":12}'),
    ],
)
def test_problems(problem: Problem, status: int, body: bytes) -> None:
    answer = errors.render(problem)
    assert (answer.status_code, answer.body) == (status, body)


def test_no_refusal_but_one_of_credentials_is_401() -> None:
    """Clients that get 401 ask for a token and come again, most of them without end."""
    for reason in Reason:
        for drawn in (errors.problem, errors.sending, errors.tariff):
            problem = drawn(Refusal(reason, "text", metadata={"quote": "abc"}))
            assert (problem.status == 401) == (reason is Reason.UNAUTHENTICATED), reason
            assert 400 <= problem.status <= 503
            assert ("retry-after" in problem.headers) == (
                problem.status in (429, 503) or problem.message == errors.LIMITED.message
            )


def test_bounces_of_the_last_day_only() -> None:
    """The switch cuts a day to what of it is in the last 24 hours."""
    now = datetime.now(UTC)
    for cut in (False, True):
        call: Any = SimpleNamespace(options=SendPulseOptions(last_day_only=cut))
        assert (lists._bounced(call, "2001-01-01") is None) == cut
        wanted = lists._bounced(call, f"{now - times.DAY:%Y-%m-%d}")
        assert wanted is not None
        assert not cut or now - wanted.outcome_start_time.ToDatetime(UTC) <= times.DAY + timedelta(minutes=1)
        rolling = lists._bounced(call, "")
        assert rolling is not None
        assert abs(now - times.DAY - rolling.outcome_start_time.ToDatetime(UTC)) < timedelta(minutes=1)
