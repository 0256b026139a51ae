"""How a message reaches the workers: when its key is judged, which worker gets it, what is tried again.

The workers are real gRPC servers with answers made up here.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc as services

from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.mspace import shapes
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal

from .conftest import Bridge, running

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "bk_aaaaaaaaaaaa_" + "a" * 32
SMALL = {"apiKey": KEY, "to": "recipient@example.com", "subject": "Hello", "body": "<h1>HTML</h1>"}
LARGE = {**SMALL, "body": "<p>word</p>" * (OFF_LOOP_BYTES // 10)}
SEND = "/email/api/send"


class Worker(services.InjectionServiceServicer):
    """Knows ``KEY`` and takes every message, unless ``refusal`` is set or ``breaks`` off."""

    def __init__(self) -> None:
        self.calls: list[pb.SubmitMessageRequest] = []
        self.refusal: Refusal | None = None
        self.breaks = False

    @property
    def messages(self) -> int:
        """How many of the calls had a message."""
        return sum(bool(call.content) for call in self.calls)

    async def SubmitMessage(
        self, request: pb.SubmitMessageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SubmitMessageResponse:
        """The bridge sends none alone."""
        raise Refusal(Reason.INTERNAL, "unexpected")

    async def SubmitMessages(
        self, request: pb.SubmitMessagesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SubmitMessagesResponse:
        """As the MTA: the caller first, then the recipients of each."""
        self.calls += [submission.message for submission in request.submissions]
        if dict(context.invocation_metadata() or ())["authorization"] != f"Bearer {KEY}":
            raise Refusal(Reason.UNAUTHENTICATED, "no valid API key")
        if self.breaks and any(submission.message.content for submission in request.submissions):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return pb.SubmitMessagesResponse(results=[self._result(one.message) for one in request.submissions])

    def _result(self, message: pb.SubmitMessageRequest) -> pb.SubmissionResult:
        refusal = self.refusal
        if not message.recipients:
            refusal = Refusal(Reason.INVALID_ARGUMENT, "give 1 to 1000 recipients", field="recipients")
        if refusal is not None:
            return pb.SubmissionResult(status=rpc.status_of(refusal))
        return pb.SubmissionResult(response=pb.SubmitMessageResponse(message_id=1))


class Installation:
    """A bridge and two workers."""

    def __init__(self, bridge: Bridge, workers: list[Worker]) -> None:
        self.bridge = bridge
        self.workers = workers

    async def send(self, document: dict[str, str]) -> tuple[int, str]:
        """Status and text of the answer."""
        answer = await self.bridge.client.post(SEND, content=json.dumps(document))
        return answer.status_code, answer.json()["message"]

    @property
    def messages(self) -> int:
        """Messages that were given to workers."""
        return sum(worker.messages for worker in self.workers)


Start = Callable[..., Awaitable[Installation]]


@pytest_asyncio.fixture(loop_scope="session")
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start_one(behind_a_node: bool = False) -> Installation:
            workers, targets = [Worker(), Worker()], []
            (tmp_path / "run").mkdir()
            for number, worker in enumerate(workers):
                server = rpc.new_server()
                services.add_InjectionServiceServicer_to_server(worker, server)
                targets.append(f"unix:{tmp_path / 'run' / f'worker-{number}.sock'}")
                server.add_insecure_port(targets[-1])
                await server.start()
                stack.push_async_callback(server.stop, None)
            addresses = targets if behind_a_node else []
            bridge = await stack.enter_async_context(
                running(tmp_path, body_bytes=36_700_160, mta_addresses=addresses, timeout_seconds=5)
            )
            installation = Installation(bridge, workers)
            while not all(worker.messages for worker in workers):
                await installation.send(SMALL)
                await asyncio.sleep(0.02)
            for worker in workers:
                worker.calls.clear()
            return installation

        yield start_one


async def test_a_small_message_is_one_call(start: Start) -> None:
    installation = await start()
    assert await installation.send(SMALL) == (200, "Email queued successfully")
    assert sum(len(worker.calls) for worker in installation.workers) == 1


async def test_the_key_of_a_large_message_is_judged_before_the_message_is_composed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, composed = await start(), 0
    compose = shapes.message_request

    def counted(body: shapes.Send) -> pb.SubmitMessageRequest:
        nonlocal composed
        composed += 1
        return compose(body)

    monkeypatch.setattr(shapes, "message_request", counted)
    assert (await installation.send({**LARGE, "apiKey": KEY[:-1] + "b"}))[0] == 401
    assert (composed, installation.messages) == (0, 0)
    assert (await installation.send(LARGE))[0] == 200
    assert (composed, installation.messages) == (1, 1)
    judged = [call for worker in installation.workers for call in worker.calls if not call.content]
    assert len(judged) == 2
    assert all(call.validate_only for call in judged)


@pytest.mark.parametrize("key", ["nonsense", KEY.upper(), KEY[:-1], KEY + "a", "bk_" + "a" * 44, "x" * 44])
async def test_a_key_that_cannot_be_one_asks_nobody(start: Start, key: str) -> None:
    installation = await start()
    for document in (SMALL, LARGE):
        assert await installation.send({**document, "apiKey": key}) == (401, "Authentication passed failed.")
    assert not any(worker.calls for worker in installation.workers)


@pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.NOT_STORED, Reason.SPOOL_FULL])
async def test_a_worker_that_takes_no_mail_now_is_passed_over(start: Start, reason: Reason) -> None:
    installation = await start()
    installation.workers[0].refusal = Refusal(reason, "try again", retry_after=7.0)
    for document in (SMALL, LARGE, SMALL, LARGE):
        assert (await installation.send(document))[0] == 200
    assert installation.workers[0].messages > 0
    assert installation.workers[1].messages == 4

    installation.workers[1].refusal = installation.workers[0].refusal
    answer = await installation.bridge.client.post(SEND, json=SMALL)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert installation.messages == 4 + installation.workers[0].messages + 1


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.CREDITS_UNAVAILABLE, Reason.INSUFFICIENT_CREDITS])
async def test_other_refusals_are_final(start: Start, reason: Reason) -> None:
    installation = await start()
    for worker in installation.workers:
        worker.refusal = Refusal(reason, "no")
    assert (await installation.send(SMALL))[0] >= 400
    assert installation.messages == 1


async def test_a_message_on_a_lost_connection_is_not_given_to_another_worker(start: Start) -> None:
    installation = await start()
    for worker in installation.workers:
        worker.breaks = True
    assert await installation.send(SMALL) == (503, "Rate limit or connection error.")
    assert installation.messages == 1


async def test_a_node_that_lost_a_worker_half_way_is_not_taken_for_a_refusal(start: Start) -> None:
    """It says UNAVAILABLE as one of its own refusals; only what cannot have been stored goes to the next."""
    installation = await start(behind_a_node=True)
    for worker in installation.workers:
        worker.refusal = Refusal(Reason.UNAVAILABLE, "Socket closed")
    assert (await installation.send(SMALL))[0] == 503
    assert installation.messages == 1
    installation.workers[0].refusal = Refusal(Reason.NOT_STORED, "try again")
    installation.workers[1].refusal = None
    assert [(await installation.send(SMALL))[0] for _ in range(4)] == [200] * 4
