"""The bridge over a real socket, in this process, with nobody behind it: control and the MTA are down."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from api_bridge import app
from api_bridge.backend import Backend
from api_bridge.certificate import Certificate
from api_bridge.endpoint import Pages
from api_bridge.server import Server
from mta.runtime.lifecycle import Drain
from mta.runtime.options import BridgeOptions, Options
from tests.support.ports import free_port

BODY_BYTES = 65_536

Start = Callable[..., Awaitable["Bridge"]]


class Bridge:
    """A running bridge."""

    def __init__(self, address: tuple[str, int], client: httpx.AsyncClient, drain: Drain) -> None:
        self.address = address
        self.client = client
        self.drain = drain

    async def exchange(self, octets: bytes, seconds: float = 60.0) -> bytes:
        """Send ``octets``, keep the connection open, and read until the server closes it."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(octets)
            async with asyncio.timeout(seconds):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def running(home: Path, extra: tuple[Pages, ...] = (), **settings: object) -> AsyncIterator[Bridge]:
    settings = {"body_bytes": BODY_BYTES, "control_address": f"127.0.0.1:{free_port()}", **settings}
    bridge = BridgeOptions(listen="127.0.0.1:0", **settings)  # type: ignore[arg-type]
    options = Options(home=str(home), bridge=bridge)
    certificate = Certificate(bridge.tls) if bridge.tls.certificate_file else None
    backend, drain = Backend(options), Drain()
    server = Server(app.application(app.parts(options, backend), drain, extra), bridge.listen, certificate)
    serving = asyncio.create_task(server.run(drain))
    host, port = server.address
    try:
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=60) as client:
            yield Bridge(server.address, client, drain)
    finally:
        drain.stop()
        await serving
        await backend.close()


# One loop for all: gRPC's completion queue belongs to the process and outlives the loop of a single test.
@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bridge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bridge]:
    async with running(tmp_path_factory.mktemp("bridge")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start_one(*extra: Pages, **settings: object) -> Bridge:
            return await stack.enter_async_context(running(tmp_path, extra, **settings))

        yield start_one
