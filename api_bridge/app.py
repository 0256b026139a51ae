"""Composition root: builds the bridge from its options and runs it. No logic of its own.

A new dialect is one more entry in ``dialects``.
"""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from api_bridge.backend import Backend
from api_bridge.body import Budget
from api_bridge.dialects.mspace.routes import MSpace
from api_bridge.edge import Edge
from api_bridge.endpoint import Dialect, plain_error
from api_bridge.health import Health
from api_bridge.problems import Problem
from api_bridge.server import Server
from mta.runtime import metrics
from mta.runtime.lifecycle import Drain, notify
from mta.runtime.log import get_logger
from mta.runtime.options import Options

log = get_logger(__name__)


def dialects(options: Options, backend: Backend) -> Sequence[Dialect]:
    """All APIs that the bridge speaks."""
    return [Health(backend), MSpace(backend, options.bridge, Budget())]


def application(spoken: Sequence[Dialect], drain: Drain) -> Edge:
    """The ASGI application."""
    routes = [route for dialect in spoken for route in dialect.routes()]
    return Edge(Router(routes, redirect_slashes=False, default=_unknown_path), drain)


async def serve(options: Options, drain: Drain) -> None:
    """Run until ``drain`` stops. Raises OptionsError if an address is taken."""
    backend = Backend(options)
    metrics_server = metrics.serve(options.bridge.metrics_listen)
    try:
        server = Server(application(dialects(options, backend), drain), options.bridge.listen)
        log.info("bridge_started", listen=options.bridge.listen, metrics=options.bridge.metrics_listen)
        notify("READY=1")
        await server.run(drain)
        notify("STOPPING=1")
        log.info("bridge_stopped")
    finally:
        metrics_server.shutdown()
        metrics_server.server_close()
        await backend.close()


async def _unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    response: Response = plain_error(Problem(404, "There is nothing at this path."))
    await response(scope, receive, send)
