"""What recipients did reaches control once it can; nobody waits for that but who unsubscribes."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from barua.control.v1 import engagement_service_pb2 as proto

from api_bridge import app
from api_bridge.backend import Backend
from api_bridge.tracking import recording
from api_bridge.tracking.pages import TrackingPages
from api_bridge.tracking.recording import Recorder
from api_bridge.tracking.shapes import Engagement
from api_bridge.tracking.tracker import KEY_FILE
from mta.runtime.options import BridgeOptions, Options
from mta.runtime.refusals import Reason, Refusal
from tests.support.ports import free_port
from tests.unit.api_bridge.conftest import Bridge

pytestmark = pytest.mark.asyncio(loop_scope="session")

RECORDED = proto.RecordEngagementsResponse.RESULT_RECORDED
INVALID = proto.RecordEngagementsResponse.RESULT_INVALID_TOKEN
TARGET = "https://shop.test/"


class Control:
    """Takes what it is told, once the failures it is to answer with are over. Stands for the backend."""

    def __init__(self, *failures: Reason) -> None:
        self.failures = list(failures)
        self.batches: list[list[str]] = []

    async def ask(self, service: str, method: str, request: Any, *, authorization: str, peer: str) -> Any:
        assert (service, method, authorization) == ("engagement", "RecordEngagements", "")
        await asyncio.sleep(0)
        if self.failures:
            raise Refusal(self.failures.pop(0), "not now")
        self.batches.append([one.token for one in request.engagements])
        results = [INVALID if one.token == "bad" else RECORDED for one in request.engagements]
        return proto.RecordEngagementsResponse(results=results)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(recording, "FIRST_PAUSE_SECONDS", 0.001)


def recorder_for(control: Control) -> Recorder:
    return Recorder(control)  # type: ignore[arg-type]


def doing(token: str) -> Engagement:
    return Engagement(token, "192.0.2.1", "Agent")


async def test_what_is_noted_is_told_together_and_in_order() -> None:
    control = Control()
    recorder = recorder_for(control)
    for number in range(recording.AT_ONCE + 1):
        recorder.note(doing(str(number)))
    await recorder.close()
    assert [len(batch) for batch in control.batches] == [recording.AT_ONCE, 1]
    assert list(itertools.chain(*control.batches)) == [str(number) for number in range(recording.AT_ONCE + 1)]


async def test_it_is_told_again_until_control_has_it() -> None:
    control = Control(Reason.UNAVAILABLE, Reason.RATE_LIMITED, Reason.UNAVAILABLE)
    recorder = recorder_for(control)
    recorder.note(doing("one"))
    await recorder.close()
    assert control.batches == [["one"]]


async def test_what_control_refuses_does_not_hold_up_the_rest() -> None:
    control = Control(Reason.INVALID_ARGUMENT)
    recorder = recorder_for(control)
    recorder.note(doing("refused"))
    await recorder.close()
    recorder.note(doing("bad"))
    recorder.note(doing("good"))
    await recorder.close()
    assert control.batches == [["bad", "good"]]
    assert await recorder.record(doing("good"))
    assert not await recorder.record(doing("bad"))


async def test_a_full_queue_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_WAITING", 3)
    control = Control()
    recorder = recorder_for(control)
    for number in range(5):
        recorder.note(doing(str(number)))
    await recorder.close()
    assert control.batches == [["0", "1", "2"]]


async def test_a_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "CLOSE_SECONDS", 0.01)
    recorder = recorder_for(Control(*[Reason.UNAVAILABLE] * 10_000))
    recorder.note(doing("one"))
    await asyncio.wait_for(recorder.close(), 60)
    await recorder_for(Control()).close()


@pytest_asyncio.fixture(loop_scope="session")
async def alone(tmp_path: Path, start: Callable[..., Any]) -> AsyncIterator[tuple[Bridge, Any]]:
    """A bridge with tracking and nobody behind it, and its tracker."""
    path = tmp_path / "secrets" / KEY_FILE
    path.parent.mkdir()
    path.write_text("ab" * 32)
    path.chmod(0o600)
    settings = BridgeOptions(public_url="http://links.test", control_address=f"127.0.0.1:{free_port()}")
    backend = Backend(Options(home=str(tmp_path), bridge=settings))
    made = app.parts(Options(home=str(tmp_path), bridge=settings), backend)
    yield await start(TrackingPages(made, Recorder(backend))), made.tracker
    await backend.close()


async def test_without_control_links_lead_on_and_unsubscribing_asks_to_come_again(alone: tuple[Bridge, Any]) -> None:
    bridge, tracker = alone
    reference = tracker.reference()
    link = tracker.track(f"<a href='{TARGET}'>", reference, opens=False).split("'")[1]
    answer = await bridge.client.get(link.removeprefix("http://links.test"))
    assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
    unsubscribe = tracker.unsubscribe_url(reference).removeprefix("http://links.test")
    assert (await bridge.client.get(unsubscribe)).status_code == 200
    answer = await bridge.client.post(unsubscribe, data={"List-Unsubscribe": "One-Click"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"].startswith("text/html")
    assert "unsubscribed" not in answer.text


async def test_the_page_says_nothing_but_its_own_words(alone: tuple[Bridge, Any]) -> None:
    bridge, _ = alone
    for path in ("/t/u/<script>alert(1)</script>", "/t/c/%3Cscript%3E", "/t/o/%22%3E.png", "/t/u/" + "A" * 8000):
        answer = await bridge.client.get(path)
        assert answer.status_code in {400, 404}
        assert "<script" not in answer.text
        assert "AAAA" not in answer.text
