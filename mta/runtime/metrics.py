"""Prometheus metrics: each module declares its own beside the code that counts; this one serves them.

``serve`` answers ``GET /metrics`` on an address of its own from a thread, so a busy event loop cannot hide its figures.
Names are ``barua_<area>_<what>_<unit>``; labels never hold addresses, domains of recipients or other unbounded values.
"""

import socket
import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from mta.runtime.options import OptionsError, split_address

STOP_SECONDS = 0.1
"""How long the server takes to notice that it is to stop; what starts it otherwise waits half a second."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: who asks for metrics asks often."""


def serve(address: str) -> WSGIServer:
    """Serve the process's metrics at ``http://address/metrics``. Raises OptionsError if the address is taken."""
    host, port = split_address(address)
    kind = type("_Server", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    try:
        server: WSGIServer = make_server(host, port, make_wsgi_app(), kind, _Handler)
    except OSError as error:
        raise OptionsError(f"cannot serve metrics on {address}: {error.strerror}; change metrics_listen") from error
    threading.Thread(target=server.serve_forever, args=(STOP_SECONDS,), daemon=True).start()
    return server
