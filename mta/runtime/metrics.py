"""Prometheus metrics: each module declares its own beside the code that counts; this one serves them.

``serve`` answers ``GET /metrics`` on an address of its own from a thread, so a busy event loop cannot hide its figures.
Names are ``barua_<area>_<what>_<unit>``; labels never hold addresses, domains of recipients or other unbounded values.
"""

from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from mta.runtime.options import OptionsError, split_address


def serve(address: str) -> WSGIServer:
    """Serve the process's metrics at ``http://address/metrics``. Raises OptionsError if the address is taken."""
    host, port = split_address(address)
    try:
        server, _ = start_http_server(port, host)
    except OSError as error:
        raise OptionsError(f"cannot serve metrics on {address}: {error.strerror}; change metrics_listen") from error
    return server
