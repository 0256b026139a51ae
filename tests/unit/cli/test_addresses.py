"""Addresses in use are found before anything starts, and the text names the option."""

import socket
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from control.supervisor import addresses
from mta.runtime.options import BridgeOptions, ControlOptions, Options, OptionsError, split_address


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use_names_port_and_option(taken: int, free: Options) -> None:
    with pytest.raises(OptionsError, match=rf"port {taken} is in use .*bridge\.listen"):
        addresses.check(_with_bridge(free, f"127.0.0.1:{taken}"))


def test_the_demos_dns_takes_datagrams(free: Options) -> None:
    demo = replace(free, demo=True)
    addresses.check(demo)
    host, port = split_address(free.inbox.dns_listen)
    with socket.create_server((host, port)):
        addresses.check(demo)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((host, port))
        with pytest.raises(OptionsError, match=rf"port {port} is in use .*inbox\.dns_listen"):
            addresses.check(demo)


def test_free_ports_pass(free: Options) -> None:
    addresses.check(free)


def test_one_address_twice_names_both_options(free: Options) -> None:
    with pytest.raises(OptionsError, match=r"control\.listen and bridge\.listen name the same address"):
        addresses.check(_with_bridge(free, free.control.listen))


def test_a_foreign_address_is_explained(free: Options) -> None:
    with pytest.raises(OptionsError, match=r"cannot listen on 192\.0\.2\.1:8080 \(bridge\.listen\)"):
        addresses.check(_with_bridge(free, "192.0.2.1:8080"))


def test_the_inbox_counts_in_demo_mode_only() -> None:
    names = {option for option, _ in addresses.listening(Options())}
    assert "inbox.smtp_listen" not in names
    assert "inbox.smtp_listen" in {option for option, _ in addresses.listening(Options(demo=True))}


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("0.0.0.0:25", "127.0.0.1:25"),
        ("[::]:25", "[::1]:25"),
        ("10.1.2.3:25", "10.1.2.3:25"),
        ("localhost:25", "localhost:25"),
    ],
)
def test_wildcards_are_reached_by_loopback(address: str, reached: str) -> None:
    assert addresses.local(address) == reached


def _with_bridge(options: Options, listen: str) -> Options:
    return replace(options, bridge=BridgeOptions(listen=listen, metrics_listen=options.bridge.metrics_listen))


def test_control_options_default_is_loopback() -> None:
    assert ControlOptions().listen.startswith("127.0.0.1:")
