"""The configuration that children get: the operator's file with what `barua up` derives, written to one TOML file.

``derive`` is pure. It makes home absolute, points programs that run here at control's real address, and in demo mode
sends every message to the inbox, whatever routes the file has, lets control ask the demo's DNS, unless the file names
nameservers, and offers AUTH before TLS on loopback addresses.
``write`` puts the result in ``home/run/effective.toml``; children and the rest of the command read that.

Limits: ``to_toml`` writes what options consist of (text, numbers, booleans, lists, tables), not all of TOML.
"""

import json
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from control.bootstrap.privatefile import write_private
from control.supervisor.addresses import local
from mta.runtime.options import ListenerOptions, Options, RouteOptions, TlsFiles, TlsMode

FILE = "run/effective.toml"
"""Below home."""
MOCK_DOMAIN = "play.test"
"""The mock domain of a demo that names none."""


def derive(options: Options, tls: TlsFiles) -> Options:
    """The options children get. ``tls`` is used in demo mode when the file names no certificate."""
    control = control_address(options)
    default = Options()
    if options.node.control_address == default.node.control_address:
        options = replace(options, node=replace(options.node, control_address=control))
    if options.bridge.control_address == default.bridge.control_address:
        options = replace(options, bridge=replace(options.bridge, control_address=control))
    options = replace(options, home=str(options.home_path))
    return _demo(options, tls) if options.demo else options


def control_address(options: Options) -> str:
    """Where programs on this machine reach control: with a client certificate, where those are asked for."""
    required = options.control.tls.client_listen if options.control_client.certificate_file else ""
    return local(required or options.control.listen)


def _demo(options: Options, tls: TlsFiles) -> Options:
    everything = RouteOptions(domain="*", target=local(options.inbox.smtp_listen), tls=TlsMode.NONE)
    mta = replace(
        options.mta,
        routes=[everything],
        listeners=[_with_plaintext_auth(listener) for listener in options.mta.listeners],
        tls=options.mta.tls if options.mta.tls.certificate_file else tls,
        mock_domain=options.mta.mock_domain or MOCK_DOMAIN,
    )
    control = options.control
    if not control.dns_nameservers:
        control = replace(control, dns_nameservers=[local(options.inbox.dns_listen)])
    bridge = options.bridge
    if not bridge.public_url:
        scheme = "https" if bridge.tls.certificate_file else "http"
        bridge = replace(bridge, public_url=f"{scheme}://{local(bridge.listen)}")
    return replace(options, mta=mta, control=control, bridge=bridge)


def _with_plaintext_auth(listener: ListenerOptions) -> ListenerOptions:
    # Workers offer it on loopback addresses alone, whatever the listener says.
    return replace(listener, plaintext_auth=listener.tls is not TlsMode.IMPLICIT)


def write(options: Options) -> Path:
    """Write the file, mode 0600, and return its path."""
    path = options.path(FILE)
    write_private(path, to_toml(options).encode())
    return path


def to_toml(options: Options) -> str:
    """Options as TOML text that ``mta.runtime.options.load`` reads back as the same value."""
    tree = cast(dict[str, Any], msgspec.to_builtins(options))
    lines = ["# Written by `barua up` at every start; changes here are lost.", ""]
    lines += [f"{key} = {_value(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_value(inner)}" for name, inner in value.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are a subset of TOML's, except that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }" if value else "{}"
    raise TypeError(f"an option has a value that TOML does not have: {value!r}")
