"""What a node passes on: to which worker, and whose address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc as services

from mta.node.forwarding import PEER_KEY, InjectionForwarder, _address
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rendezvous import place_of
from mta.runtime.rpc import new_server, refusal_in, refusal_of
from tests.unit.node.peers import Worker, channel_to, served


class Context:
    """What a call says of where it comes from."""

    def __init__(self, peer: str, said: str | bytes | None = None) -> None:
        self._peer = peer
        self._metadata = () if said is None else ((PEER_KEY, said),)

    def peer(self) -> str:
        """In the spelling of gRPC."""
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """As sent."""
        return self._metadata


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert _address(cast(Any, Context(peer))) == address


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("ipv4:127.0.0.1:5000", "198.51.100.9", "198.51.100.9"),
        ("ipv6:[::1]:5000", "2001:db8::9", "2001:db8::9"),
        ("ipv4:127.0.0.1:5000", "nonsense", "127.0.0.1"),
        ("ipv4:127.0.0.1:5000", b"198.51.100.9", "127.0.0.1"),
        ("ipv4:192.0.2.1:5000", "198.51.100.9", "192.0.2.1"),
        ("ipv6:[::ffff:192.0.2.1]:5000", "198.51.100.9", "192.0.2.1"),
    ],
)
def test_only_this_machine_is_believed_about_others(peer: str, said: str | bytes, address: str) -> None:
    assert _address(cast(Any, Context(peer, said))) == address


NAMES = ["first", "second"]
KEYS = [next(str(number) for number in range(100) if place_of(str(number), NAMES) == place) for place in range(2)]
"""A key of each worker."""


class Forwarding:
    """A node with two workers, and a client."""

    def __init__(self, workers: list[Worker], injection: "services.InjectionServiceAsyncStub") -> None:
        self.workers = workers
        self.injection = injection

    async def submit(self, *submissions: pb.Submission, key: str = "") -> list[str | Reason]:
        """Where each went, or why it did not."""
        request = pb.SubmitMessagesRequest(submissions=submissions, idempotency_key=key)
        answer = await self.injection.SubmitMessages(request, timeout=60)
        return [
            refusal_in(one.status).reason if one.status.code else one.response.message_id_header
            for one in answer.results
        ]


@pytest.fixture
async def forwarding(tmp_path: Path) -> AsyncIterator[Forwarding]:
    async with AsyncExitStack() as stack:
        workers, channels = [Worker(name) for name in NAMES], []
        for worker in workers:
            await stack.enter_async_context(served(worker, tmp_path / worker.name))
            channels.append(await stack.enter_async_context(channel_to(tmp_path / worker.name)))
        server = new_server()
        InjectionForwarder(channels, NAMES).add_to(server)
        server.add_insecure_port(f"unix:{tmp_path / 'node'}")
        await server.start()
        stack.push_async_callback(server.stop, None)
        client = await stack.enter_async_context(channel_to(tmp_path / "node"))
        yield Forwarding(workers, services.InjectionServiceStub(client))


def submission(word: str, key: str = "", peer: str = "") -> pb.Submission:
    return pb.Submission(message=pb.SubmitMessageRequest(content=word.encode()), idempotency_key=key, peer=peer)


async def test_a_key_goes_to_its_worker(forwarding: Forwarding) -> None:
    for _ in range(3):
        found = await forwarding.submit(submission("a", KEYS[0]), submission("b", KEYS[1]), submission("c", KEYS[0]))
        assert found == ["<a@first>", "<b@second>", "<c@first>"]
        assert await forwarding.submit(submission("a"), submission("b"), key=KEYS[1]) == ["<a@second>", "<b@second>"]


async def test_without_keys_they_take_turns(forwarding: Forwarding) -> None:
    await forwarding.submit(submission("a", KEYS[0]), submission("b", KEYS[1]))  # both connections stand
    found = [(await forwarding.submit(submission("a"), submission("b"))) for _ in range(4)]
    assert sorted(map(tuple, found)) == [("<a@first>", "<b@first>")] * 2 + [("<a@second>", "<b@second>")] * 2


async def test_a_key_never_goes_elsewhere(forwarding: Forwarding) -> None:
    forwarding.workers[0].refuse = Refusal(Reason.UNAVAILABLE, "stopping")
    found = await forwarding.submit(submission("a", KEYS[0]), submission("b", KEYS[1]), submission("c", KEYS[0]))
    assert found == [Reason.UNAVAILABLE, "<b@second>", Reason.UNAVAILABLE]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await forwarding.submit(submission("a"), key=KEYS[0])
    assert refusal_of(caught.value).reason is Reason.UNAVAILABLE


async def test_a_caller_from_elsewhere_is_not_believed(forwarding: Forwarding) -> None:
    await asyncio.gather(forwarding.submit(submission("a", peer="192.0.2.1")))
    [(_, metadata)] = [one for worker in forwarding.workers for one in worker.injected]
    assert metadata[PEER_KEY] == ""


async def test_what_failed_on_the_way_is_told_without_our_names(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gone = await stack.enter_async_context(channel_to(tmp_path / "nobody"))
        server = new_server()
        InjectionForwarder([gone], ["nobody"]).add_to(server)
        server.add_insecure_port(f"unix:{tmp_path / 'node'}")
        await server.start()
        stack.push_async_callback(server.stop, None)
        client = await stack.enter_async_context(channel_to(tmp_path / "node"))
        injection: services.InjectionServiceAsyncStub = services.InjectionServiceStub(client)
        for key in "", "k":
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                request = pb.SubmitMessagesRequest(submissions=[submission("a")], idempotency_key=key)
                await injection.SubmitMessages(request, timeout=60)
            refusal = refusal_of(caught.value)
            assert refusal.reason is Reason.UNAVAILABLE
            assert refusal.retry_after
            assert str(tmp_path) not in refusal.message
