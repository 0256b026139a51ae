"""Options on free ports."""

import socket
from pathlib import Path

import pytest

from mta.runtime.options import (
    BridgeOptions,
    ControlOptions,
    InboxOptions,
    ListenerOptions,
    MtaOptions,
    NodeOptions,
    Options,
    TlsMode,
)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def free(tmp_path: Path) -> Options:
    """Options whose every address is free."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(11)]
    metrics = next(iter(free_ports(1)))
    return Options(
        home=str(tmp_path / "home"),
        control=ControlOptions(listen=addresses[0], metrics_listen=addresses[1]),
        node=NodeOptions(listen=addresses[2], metrics_listen=addresses[3], control_address=addresses[0]),
        bridge=BridgeOptions(listen=addresses[4], metrics_listen=addresses[5], control_address=addresses[0]),
        inbox=InboxOptions(http_listen=addresses[6], smtp_listen=addresses[7], dns_listen=addresses[10]),
        mta=MtaOptions(
            workers=1,
            metrics_port_base=metrics,
            listeners=[
                ListenerOptions(listen=addresses[8]),
                ListenerOptions(listen=addresses[9], tls=TlsMode.IMPLICIT),
            ],
        ),
    )
