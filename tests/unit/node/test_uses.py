"""What the workers saw used comes to control, once, and nobody waits for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from barua.mta.v1.worker_service_pb2_grpc import WorkerServiceStub
from barua.policy.v1.policy_service_pb2 import CredentialUse

from mta.node.uses import UseReporter
from mta.policy import uses
from mta.policy.uses import CredentialKind, Uses
from tests.unit.node.peers import TOKEN, Control, Worker, channel_to, served


class Setup:
    """Control, two workers and a reporter between them."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.control = Control()
        self.workers = [Worker(), Worker()]
        self.folder = folder
        self.stack = stack

    async def start(self, *, with_control: bool = True) -> UseReporter:
        """Serve all, or all but control."""
        for number, worker in enumerate(self.workers):
            await self.stack.enter_async_context(served(worker, self.folder / f"worker-{number}.sock"))
        if with_control:
            await self.stack.enter_async_context(served(self.control, self.folder / "control.sock"))
        names = ["control", "worker-0", "worker-1"]
        control, *workers = [
            await self.stack.enter_async_context(channel_to(self.folder / f"{name}.sock")) for name in names
        ]
        return UseReporter("node1", control, TOKEN, [WorkerServiceStub(worker) for worker in workers])


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    """Not started yet."""
    async with AsyncExitStack() as stack:
        yield Setup(tmp_path, stack)


async def test_uses_of_all_workers_are_reported_once(setup: Setup) -> None:
    reporter = await setup.start()
    setup.workers[0].uses = [CredentialUse(kind=CredentialUse.KIND_LOGIN, id="ann")]
    setup.workers[1].uses = [CredentialUse(kind=CredentialUse.KIND_API_KEY, id="abc")]
    await reporter.report()
    await reporter.report()
    assert setup.control.uses == [(CredentialUse.KIND_LOGIN, "ann"), (CredentialUse.KIND_API_KEY, "abc")]


async def test_without_control_they_are_lost_and_nothing_else(setup: Setup) -> None:
    reporter = await setup.start(with_control=False)
    setup.workers[0].uses = [CredentialUse(kind=CredentialUse.KIND_LOGIN, id="ann")]
    await reporter.report()
    assert setup.workers[0].uses == []


def test_what_was_noted_is_taken_once_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Uses()
    for _ in range(3):
        noted.note(CredentialKind.LOGIN, "ann")
    noted.note(CredentialKind.API_KEY, "abc")
    assert noted.take() == [(CredentialKind.API_KEY, "abc"), (CredentialKind.LOGIN, "ann")]
    assert noted.take() == []
    monkeypatch.setattr(uses, "MAX_NOTED", 1)
    noted.note(CredentialKind.LOGIN, "ann")
    noted.note(CredentialKind.LOGIN, "bob")
    assert noted.take() == [(CredentialKind.LOGIN, "ann")]
