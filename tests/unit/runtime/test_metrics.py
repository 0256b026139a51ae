"""Metrics over HTTP."""

import urllib.request

import pytest
from prometheus_client import Counter

from mta.runtime.metrics import serve
from mta.runtime.options import OptionsError
from tests.support.ports import free_port

SEEN = Counter("barua_test_seen_total", "For this test.")


def test_metrics_are_served_until_shut_down() -> None:
    address = f"127.0.0.1:{free_port()}"
    server = serve(address)
    SEEN.inc()
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        assert b"barua_test_seen_total 1.0" in answer.read()
    with pytest.raises(OptionsError, match=f"cannot serve metrics on {address}.*change metrics_listen"):
        serve(address)
    server.shutdown()
    server.server_close()
