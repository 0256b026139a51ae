"""Composition root: builds the bridge from its options and runs it. No logic of its own.

A new dialect is one more entry in ``dialects``.
"""

import asyncio
import gc
import signal
from collections.abc import Mapping, Sequence

from api_bridge.backend import Backend
from api_bridge.body import Budget
from api_bridge.bulk import Bulk
from api_bridge.certificate import Certificate
from api_bridge.dialects.mailpass.routes import MailPass
from api_bridge.dialects.mspace.routes import MSpace
from api_bridge.dialects.sendpost.routes import SendPost
from api_bridge.dialects.sendpulse.pages import ResubscriptionPage
from api_bridge.dialects.sendpulse.routes import SendPulse
from api_bridge.documentation import Documentation
from api_bridge.edge import Edge
from api_bridge.endpoint import Dialect, Pages
from api_bridge.forwarders import Forwarders
from api_bridge.health import Health
from api_bridge.parts import Parts
from api_bridge.paths import Paths
from api_bridge.rates import Rates
from api_bridge.server import Server
from api_bridge.tracking.pages import TrackingPages
from api_bridge.tracking.recording import Recorder
from api_bridge.tracking.tracker import Tracker
from mta.runtime import metrics
from mta.runtime.lifecycle import Drain, notify
from mta.runtime.log import get_logger
from mta.runtime.options import DialectOptions, Options

log = get_logger(__name__)


def parts(options: Options, backend: Backend) -> Parts:
    """What the dialects are made of."""
    bridge = options.bridge
    return Parts(
        backend,
        bridge,
        Budget(),
        Bulk(),
        Rates(bridge.dialects),
        Tracker.load(options),
        options.mta.mock_domain,
        options.mta.hostname,
    )


def dialects(parts: Parts) -> Sequence[Dialect]:
    """All APIs that the bridge speaks."""
    return [MSpace(parts), SendPulse(parts), MailPass(parts), SendPost(parts)]


def application(parts: Parts, drain: Drain, more: Sequence[Pages] = ()) -> Edge:
    """The ASGI application: the dialects that are switched on, the bridge's own pages, and ``more``."""
    paths = Paths()
    switches: Mapping[str, DialectOptions] = parts.options.dialects.named()
    spoken = [dialect for dialect in dialects(parts) if switches[dialect.name].enabled]
    own: Sequence[Pages] = [Health(parts.backend), Documentation(spoken), ResubscriptionPage(parts), *more]
    for pages in own:
        paths.add(pages)
    for dialect in spoken:
        paths.add(dialect, switches[dialect.name].hosts)
    return Edge(paths, drain, Forwarders(parts.options.trusted_forwarders))


async def serve(options: Options, drain: Drain) -> None:
    """Run until ``drain`` stops; SIGHUP reads the certificate again. Raises OptionsError."""
    bridge = options.bridge
    certificate = Certificate(bridge.tls) if bridge.tls.certificate_file else None
    backend = Backend(options)
    recorder = Recorder(backend)
    metrics_server = metrics.serve(bridge.metrics_listen)
    try:
        made = parts(options, backend)
        pages = TrackingPages(made, recorder)
        server = Server(application(made, drain, [pages]), bridge.listen, certificate)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.refresh if certificate else _ignore)
        _spare_collector()
        log.info("bridge_started", listen=bridge.listen, metrics=bridge.metrics_listen, tls=certificate is not None)
        notify("READY=1")
        await server.run(drain)
        notify("STOPPING=1")
        log.info("bridge_stopped")
    finally:
        metrics_server.shutdown()
        metrics_server.server_close()
        await recorder.close()
        await backend.close()


def _spare_collector() -> None:
    """What exists now stays: leave it out of the garbage collector's rounds, and make those rarer.

    With the rounds that are usual, a seventh of a request's time went into them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _ignore() -> None:
    """A SIGHUP without a certificate: there is nothing to read again."""
