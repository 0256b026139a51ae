"""Finds addresses that cannot be listened on before anything is started, and names the option to change.

``check(options)`` tries each listening address for a moment. Errors: ``OptionsError`` for the operator.

Limits: an address can still be taken between this check and the child's bind; the child then says so in its log.
"""

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from mta.runtime.options import Options, OptionsError, split_address

DATAGRAMS = "inbox.dns_listen"
"""The option whose address takes UDP; the others take TCP."""


def check(options: Options) -> None:
    """Raise OptionsError for the first address that is named twice, in use, or not ours."""
    seen: dict[tuple[str, int], str] = {}
    for option, address in listening(options):
        host, port = split_address(address)
        if (host, port) in seen:
            raise OptionsError(f"the options {seen[host, port]} and {option} name the same address, {address}")
        seen[host, port] = option
        _try(option, address, host, port)


def listening(options: Options) -> Iterator[tuple[str, str]]:
    """Every address that the programs of ``options`` listen on: (option, host:port)."""
    yield "control.listen", options.control.listen
    yield "control.metrics_listen", options.control.metrics_listen
    yield "node.listen", options.node.listen
    yield "node.metrics_listen", options.node.metrics_listen
    for index, listener in enumerate(options.mta.listeners):
        yield f"mta.listeners[{index}].listen", listener.listen
    for index in range(options.mta.workers):
        yield "mta.metrics_port_base", f"127.0.0.1:{options.mta.metrics_port_base + index}"
    yield "bridge.listen", options.bridge.listen
    yield "bridge.metrics_listen", options.bridge.metrics_listen
    if options.demo:
        yield "inbox.http_listen", options.inbox.http_listen
        yield "inbox.smtp_listen", options.inbox.smtp_listen
        yield DATAGRAMS, options.inbox.dns_listen


def local(address: str) -> str:
    """The address by which this machine reaches a listening address: a wildcard becomes loopback."""
    host, port = split_address(address)
    try:
        ip = ip_address(host)
    except ValueError:
        return address
    if not ip.is_unspecified:
        return address
    return f"127.0.0.1:{port}" if ip.version == 4 else f"[::1]:{port}"


def _try(option: str, address: str, host: str, port: int) -> None:
    try:
        wanted = socket.SOCK_DGRAM if option == DATAGRAMS else socket.SOCK_STREAM
        found = socket.getaddrinfo(host, port, type=wanted, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OptionsError(f"{option}: {host} is not an address or a name of this machine: {error.strerror}") from error
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(target)
            if kind is socket.SOCK_STREAM:
                probe.listen(1)
        except OSError as error:
            raise OptionsError(_explain(option, address, port, error)) from error


def _explain(option: str, address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program: stop that, or change the option {option} ({address})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to listen on port {port} ({option}): ports below 1024 need CAP_NET_BIND_SERVICE"
    return f"cannot listen on {address} ({option}): {error.strerror}"
