"""Every option of every program, declared once: one TOML file configures the whole installation.

``load`` reads the file, refuses what it does not know with the name of the option and the mend, and returns an
``Options`` value. Units are part of the names (``_seconds``, ``_bytes``). The page ``mta/doc/options.md`` is generated
from this module by ``reference``; a test keeps both in step, so an option without a description fails.

Errors: ``OptionsError`` with a text for the operator. Reads one file; no other side effects.
"""

import ipaddress
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import msgspec
from msgspec import Meta, field

from mta.runtime.bridgeoptions import (
    BridgeOptions,
    BridgeTlsOptions,
    DialectOptions,
    DialectsOptions,
    MailPassOptions,
    MSpaceOptions,
    SendPostOptions,
    SendPulseOptions,
)
from mta.runtime.section import Section

__all__ = [  # declared elsewhere, and found here, as all options are
    "BridgeOptions",
    "BridgeTlsOptions",
    "DialectOptions",
    "DialectsOptions",
    "MSpaceOptions",
    "MailPassOptions",
    "SendPostOptions",
    "SendPulseOptions",
    "Section",
]

ENV_HOME = "BARUA_HOME"


class OptionsError(Exception):
    """The configuration cannot be used; the text says what is wrong and how to mend it."""


class TlsMode(StrEnum):
    """How a listener or a route speaks TLS."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class LogOptions(Section, frozen=True):
    """Logs: one JSON line per event on standard error."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$", description="Least severity written.")] = "info"


class DatabaseOptions(Section, frozen=True):
    """PostgreSQL, used by the control program alone."""

    url: Annotated[
        str,
        Meta(description='"embedded" for a server of its own under home, or postgresql://user:password@host/database.'),
    ] = "embedded"
    pool_size: Annotated[int, Meta(ge=2, le=200, description="Connections at most.")] = 10
    acquire_timeout_seconds: Annotated[float, Meta(gt=0, description="Wait for a free connection at most.")] = 5.0
    command_timeout_seconds: Annotated[float, Meta(gt=0, description="Time for one statement at most.")] = 15.0


class CertificateIdentity(Section, frozen=True):
    """Whom a client certificate without a URI of the scheme "barua" names."""

    common_name: Annotated[str, Meta(description="Common name of the certificate's subject, exactly.")]
    identity: Annotated[str, Meta(description='"operator", "node/<name>" or "tenant/<tenant id>".')]


class ServerTlsOptions(Section, frozen=True):
    """TLS (1.2 or newer) of a gRPC server. Files that change are read again with the next connection."""

    certificate_file: Annotated[str, Meta(description="PEM with the chain; empty: no TLS.")] = ""
    key_file: Annotated[str, Meta(description="PEM with the private key.")] = ""
    client_ca_file: Annotated[
        str, Meta(description="PEM with the authorities of client certificates, which every client must then have.")
    ] = ""


class ControlTlsOptions(ServerTlsOptions, frozen=True):
    """TLS (1.2 or newer) of control's gRPC server. Files that change are read again with the next connection."""

    client_listen: Annotated[
        str,
        Meta(
            description="A second address, host:port, where client certificates are required; "
            "control.listen does not ask for them then. Empty: there is none."
        ),
    ] = ""
    identities: Annotated[
        list[CertificateIdentity], Meta(description="Holders of certificates without a URI barua:...")
    ] = field(default_factory=list)


class ClientTlsOptions(Section, frozen=True):
    """How our programs connect to a gRPC server of ours over TCP."""

    ca_file: Annotated[
        str, Meta(description="PEM with the authorities of the server's certificate; empty: no TLS.")
    ] = ""
    certificate_file: Annotated[str, Meta(description="PEM with a client certificate; empty: none.")] = ""
    key_file: Annotated[str, Meta(description="PEM with its private key.")] = ""
    server_name: Annotated[
        str, Meta(description="Name in the server's certificate, if it is not that of the address.")
    ] = ""


class WebhookOptions(Section, frozen=True):
    """How events are posted to webhooks."""

    allow_http: Annotated[bool, Meta(description="Take URLs that begin with http://, too.")] = False
    allowed_networks: Annotated[
        list[str],
        Meta(description="Networks that webhooks may reach although they are not public, such as 10.1.0.0/16."),
    ] = field(default_factory=list)
    ca_file: Annotated[
        str, Meta(description="PEM with authorities to trust beside those of the system; empty: none.")
    ] = ""
    timeout_seconds: Annotated[float, Meta(gt=0, le=60, description="For one request, from look-up to answer.")] = 10.0
    connections: Annotated[int, Meta(ge=2, le=2000, description="Requests at once, per control program.")] = 100
    pace: Annotated[
        float, Meta(gt=0, le=10, description="Pauses between attempts are multiplied by this; below 1 for tests.")
    ] = 1.0
    disable_after_seconds: Annotated[
        float, Meta(gt=0, description="A webhook whose every attempt failed for so long is switched off.")
    ] = 259_200.0
    keep_days: Annotated[int, Meta(ge=1, le=400, description="Finished deliveries stay in the log for so long.")] = 30


class AlertOptions(Section, frozen=True):
    """Alerts."""

    interval_seconds: Annotated[float, Meta(gt=0, description="Between evaluations of the rules.")] = 60.0


class SuppressionOptions(Section, frozen=True):
    """What becomes a suppression by itself, where no tenant says otherwise."""

    hard_bounces: Annotated[bool, Meta(description="Recipients whose mailbox or domain does not exist.")] = True
    soft_bounces: Annotated[
        bool, Meta(description="Recipients to whom nothing gets through: for a while, each time twice as long.")
    ] = True
    soft_bounce_count: Annotated[int, Meta(ge=1, le=100, description="So many messages in a row have to fail ...")] = 3
    soft_bounce_days: Annotated[int, Meta(ge=1, le=30, description="... on so many different days.")] = 3
    first_pause_days: Annotated[int, Meta(ge=1, le=365, description="Days of the first temporary suppression.")] = 7
    pause_count: Annotated[int, Meta(ge=0, le=10, description="Temporary suppressions before one for good.")] = 3


class ValidationOptions(Section, frozen=True):
    """The validation of lists of addresses. Each file has one name per line and adds to the built-in list."""

    disposable_domains_file: Annotated[str, Meta(description="Domains of throw-away mailboxes; empty: none.")] = ""
    role_accounts_file: Annotated[str, Meta(description='Local parts such as "postmaster"; empty: none.')] = ""
    free_mail_domains_file: Annotated[str, Meta(description="Domains of free mailboxes; empty: none.")] = ""
    dns_timeout_seconds: Annotated[float, Meta(gt=0, le=60, description="Time to look a domain up.")] = 5.0
    kept_days: Annotated[
        int, Meta(ge=1, le=3650, description="Days that finished lists and their results are kept.")
    ] = 30


class ControlOptions(Section, frozen=True):
    """The control program."""

    listen: Annotated[str, Meta(description="Address of the gRPC server, host:port.")] = "127.0.0.1:7070"
    tls: ControlTlsOptions = field(default_factory=ControlTlsOptions)
    plaintext_anywhere: Annotated[
        bool,
        Meta(
            description="Serve without TLS on addresses other than loopback, too: "
            "for networks that are protected otherwise. Credentials travel in the clear."
        ),
    ] = False
    forwarders: Annotated[
        list[str],
        Meta(description="Addresses and networks of bridges: peers that may say on whose behalf they call."),
    ] = field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    metrics_listen: Annotated[str, Meta(description="Address of /metrics, host:port.")] = "127.0.0.1:9470"
    dns_nameservers: Annotated[
        list[str], Meta(description="host:port of the servers that domain checks ask; empty: those of the system.")
    ] = field(default_factory=list)
    sending_hosts: Annotated[
        list[str],
        Meta(description="Names whose addresses mail leaves from, for SPF checks and advice; empty: mta.hostname."),
    ] = field(default_factory=list)
    spf_include: Annotated[
        str, Meta(description="Name of an SPF record of ours that domains include; empty: they name the sending hosts.")
    ] = ""
    return_path_target: Annotated[
        str, Meta(description="Host that return-path hosts of domains are aliases of; empty: mta.hostname.")
    ] = ""
    tracking_target: Annotated[
        str, Meta(description="Host that tracking hosts of domains are aliases of; empty: mta.hostname.")
    ] = ""
    refused_sender_domains: Annotated[
        list[str], Meta(description="Domains whose single addresses are not taken as senders, such as free mail.")
    ] = field(default_factory=list)
    confirmation_sender: Annotated[
        str, Meta(description="From address of messages that confirm senders; empty: the operator's default sender.")
    ] = ""
    mta_address: Annotated[
        str, Meta(description="gRPC address of the MTA that mails confirmations, host:port; empty: node.listen.")
    ] = ""
    history_days: Annotated[
        int, Meta(ge=1, le=100, description="Days that messages and their events are kept, beside the running one.")
    ] = 30
    suppressions: SuppressionOptions = field(default_factory=SuppressionOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    webhooks: WebhookOptions = field(default_factory=WebhookOptions)
    alerts: AlertOptions = field(default_factory=AlertOptions)


class NodeOptions(Section, frozen=True):
    """The node program, one per machine."""

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$", description="Unique name of this machine.")] = (
        "node1"
    )
    listen: Annotated[str, Meta(description="Address of the MTA's gRPC server, host:port.")] = "127.0.0.1:7071"
    tls: ServerTlsOptions = field(default_factory=ServerTlsOptions)
    plaintext_anywhere: Annotated[
        bool,
        Meta(
            description="Serve without TLS on addresses other than loopback, too: "
            "for networks that are protected otherwise. Credentials travel in the clear."
        ),
    ] = False
    metrics_listen: Annotated[str, Meta(description="Address of /metrics, host:port.")] = "127.0.0.1:9471"
    control_address: Annotated[str, Meta(description="gRPC address of control, host:port.")] = "127.0.0.1:7070"


class TrustedNetwork(Section, frozen=True):
    """Peers that may submit without AUTH, on behalf of one tenant."""

    network: Annotated[str, Meta(description="Address or network, such as 127.0.0.1/32 or 2001:db8::/64.")]
    tenant: Annotated[str, Meta(description="Tenant id that pays and whose sender domains count.")]


class ListenerOptions(Section, frozen=True):
    """One address that speaks SMTP."""

    listen: Annotated[str, Meta(description="Address, host:port. The workers share it.")]
    tls: Annotated[TlsMode, Meta(description='"none", "starttls" or "implicit".')] = TlsMode.STARTTLS
    plaintext_auth: Annotated[bool, Meta(description="Offer AUTH before TLS; taken on loopback addresses only.")] = (
        False
    )
    trusted: Annotated[list[TrustedNetwork], Meta(description="Peers that need no AUTH.")] = field(default_factory=list)


class RouteOptions(Section, frozen=True):
    """A static route: the same thing as a transport map entry or a smart host."""

    domain: Annotated[str, Meta(description='Recipient domain, ".example.com" for its subdomains, "*" for all others.')]
    target: Annotated[str, Meta(description="host:port, or [IPv6]:port.")]
    tls: Annotated[
        TlsMode, Meta(description='"starttls" uses TLS if offered; "none" never; "implicit" from the start.')
    ] = TlsMode.STARTTLS


class DnsOptions(Section, frozen=True):
    """The resolver of the workers."""

    nameservers: Annotated[list[str], Meta(description="host:port each; empty: those of the system.")] = field(
        default_factory=list
    )
    timeout_seconds: Annotated[float, Meta(gt=0, description="Time for one look-up, retries included.")] = 10.0
    cache_size: Annotated[int, Meta(ge=100, description="Answers kept at most.")] = 50_000
    max_ttl_seconds: Annotated[int, Meta(ge=1, description="Answers are kept no longer than this.")] = 3600


class DeliveryOptions(Section, frozen=True):
    """How messages go out."""

    port: Annotated[int, Meta(ge=1, le=65535, description="Port of remote servers found through the DNS.")] = 25
    connections_per_site: Annotated[int, Meta(ge=1, le=1000, description="To one site at most, per worker.")] = 20
    connections_total: Annotated[int, Meta(ge=1, le=50_000, description="In all at most, per worker.")] = 1000
    messages_per_connection: Annotated[int, Meta(ge=1, description="Then the connection is closed.")] = 1000
    idle_seconds: Annotated[float, Meta(gt=0, description="An unused connection is kept this long.")] = 5.0
    connect_timeout_seconds: Annotated[float, Meta(gt=0, description="For a TCP connection and TLS.")] = 30.0
    command_timeout_seconds: Annotated[
        float, Meta(gt=0, description="For greeting and each command (RFC 5321 §4.5.3.2 asks for five minutes).")
    ] = 300.0
    final_dot_timeout_seconds: Annotated[float, Meta(gt=0, description="For the reply to a whole message.")] = 600.0
    allow_private_addresses: Annotated[
        bool, Meta(description="Deliver to loopback and private addresses found through the DNS.")
    ] = False


class RetryOptions(Section, frozen=True):
    """When a deferred recipient is tried again: exponential back-off with jitter, then a bounce message."""

    first_seconds: Annotated[float, Meta(gt=0, description="Pause after the first failure.")] = 300.0
    factor: Annotated[float, Meta(ge=1, le=10, description="Each pause is this much longer.")] = 2.0
    max_seconds: Annotated[float, Meta(gt=0, description="No pause is longer.")] = 14_400.0
    jitter: Annotated[float, Meta(ge=0, le=0.5, description="Each pause varies by this share either way.")] = 0.15
    lifetime_seconds: Annotated[float, Meta(gt=0, description="Then the recipient is given up.")] = 432_000.0
    min_attempts: Annotated[int, Meta(ge=1, description="Not given up before so many attempts.")] = 3


class LimitOptions(Section, frozen=True):
    """Bounds on what a peer can make us spend."""

    message_bytes: Annotated[int, Meta(ge=1024, description="Size of a message.")] = 26_214_400
    recipients: Annotated[
        int, Meta(ge=100, description="Recipients of a message (RFC 5321 §4.5.3.1.8: 100 or more).")
    ] = 1000
    connections: Annotated[int, Meta(ge=1, description="SMTP connections, per worker.")] = 10_000
    connections_per_address: Annotated[int, Meta(ge=1, description="From one address, per worker.")] = 500
    idle_seconds: Annotated[float, Meta(gt=0, description="Silence between commands.")] = 300.0
    received_fields: Annotated[int, Meta(ge=1, description="More of them is a loop (RFC 5321 §6.3).")] = 100
    spool_free_bytes: Annotated[int, Meta(ge=0, description="Refuse mail when the file system has less room.")] = (
        268_435_456
    )
    buffered_bytes: Annotated[
        int,
        Meta(ge=1_048_576, description="Content in memory, per worker: of messages coming in, and of those going out."),
    ] = 268_435_456


class TlsFiles(Section, frozen=True):
    """The server's certificate."""

    certificate_file: Annotated[str, Meta(description="PEM with the chain; empty: no TLS is offered.")] = ""
    key_file: Annotated[str, Meta(description="PEM with the private key.")] = ""


class MtaOptions(Section, frozen=True):
    """The workers."""

    hostname: Annotated[
        str, Meta(description="Name in greetings, EHLO and Received; must resolve to this machine.")
    ] = "localhost"
    workers: Annotated[int, Meta(ge=1, le=256, description="Processes; one per core is right.")] = 2
    first_shard: Annotated[
        int, Meta(ge=0, le=4095, description="Number of the first worker on the whole platform: ids contain it.")
    ] = 0
    mock_domain: Annotated[
        str,
        Meta(
            description="Domain to try programs out with, such as play.test: mail to it is never sent, and the outcome "
            "follows from the address (test@, deliver@, hardbounce@, softbounce@, dropped@). Empty: none."
        ),
    ] = ""
    metrics_port_base: Annotated[int, Meta(ge=1, le=65000, description="Worker i serves /metrics on this plus i.")] = (
        9480
    )
    listeners: Annotated[list[ListenerOptions], Meta(description="Where SMTP is spoken.")] = field(
        default_factory=lambda: [
            ListenerOptions(listen="127.0.0.1:2525", tls=TlsMode.STARTTLS),
            ListenerOptions(listen="127.0.0.1:2465", tls=TlsMode.IMPLICIT),
        ]
    )
    tls: TlsFiles = field(default_factory=TlsFiles)
    dns: DnsOptions = field(default_factory=DnsOptions)
    routes: Annotated[list[RouteOptions], Meta(description="Static routes; the DNS decides for all other domains.")] = (
        field(default_factory=list)
    )
    delivery: DeliveryOptions = field(default_factory=DeliveryOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    limits: LimitOptions = field(default_factory=LimitOptions)


class InboxOptions(Section, frozen=True):
    """The inbox of demo mode."""

    http_listen: Annotated[str, Meta(description="Address of its HTTP server, host:port.")] = "127.0.0.1:8025"
    smtp_listen: Annotated[str, Meta(description="Address of its SMTP server, host:port.")] = "127.0.0.1:2526"
    dns_listen: Annotated[
        str, Meta(description="Address of the demo's DNS server (UDP), which control then asks, host:port.")
    ] = "127.0.0.1:8053"
    messages: Annotated[int, Meta(ge=1, description="Messages kept; the oldest go first.")] = 10_000


class BootstrapDomain(Section, frozen=True):
    """A sender domain to make at start."""

    name: Annotated[str, Meta(description="Domain name.")]
    signing: Annotated[bool, Meta(description="Sign with DKIM; false: messages go out unsigned.")] = True


class BootstrapTenant(Section, frozen=True):
    """A tenant to make at start if it is not there yet. What exists is left alone."""

    id: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$", description="Tenant id.")]
    parent: Annotated[str, Meta(description="Tenant id above.")] = "operator"
    credits: Annotated[int, Meta(ge=0, description="Granted when the tenant is made.")] = 0
    default_sender: Annotated[str, Meta(description="From address for messages without one.")] = ""
    username: Annotated[str, Meta(description="Login to make; empty: none.")] = ""
    password_file: Annotated[str, Meta(description="File with the login's password.")] = ""
    domains: Annotated[list[BootstrapDomain], Meta(description="Domains taken on trust.")] = field(default_factory=list)


class BootstrapOptions(Section, frozen=True):
    """What ``barua up`` makes at its first start."""

    tenants: Annotated[list[BootstrapTenant], Meta(description="Parents before children.")] = field(
        default_factory=list
    )


class Options(Section, frozen=True):
    """The whole file."""

    home: Annotated[str, Meta(description="Folder of all state; $BARUA_HOME goes before this.")] = "./var"
    demo: Annotated[bool, Meta(description="Deliver everything to the built-in inbox and make demo accounts.")] = False
    log: LogOptions = field(default_factory=LogOptions)
    database: DatabaseOptions = field(default_factory=DatabaseOptions)
    control: ControlOptions = field(default_factory=ControlOptions)
    control_client: ClientTlsOptions = field(default_factory=ClientTlsOptions)
    node_client: ClientTlsOptions = field(default_factory=ClientTlsOptions)
    node: NodeOptions = field(default_factory=NodeOptions)
    mta: MtaOptions = field(default_factory=MtaOptions)
    bridge: BridgeOptions = field(default_factory=BridgeOptions)
    inbox: InboxOptions = field(default_factory=InboxOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)

    @property
    def home_path(self) -> Path:
        """Absolute folder of all state."""
        return Path(self.home).resolve()

    def path(self, *parts: str) -> Path:
        """A path below home."""
        return self.home_path.joinpath(*parts)


def load(file: Path | None, environment: dict[str, str] | None = None) -> Options:
    """Read ``file`` (None: all defaults), apply $BARUA_HOME, check what types cannot.

    Relative paths in the file are relative to the working directory. Raises OptionsError.
    """
    options = _read(file) if file is not None else Options()
    home = (os.environ if environment is None else environment).get(ENV_HOME)
    if home:
        options = msgspec.structs.replace(options, home=home)
    _check(options)
    return options


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` or ``[IPv6]:port`` as (host, port). Raises OptionsError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not (port.isascii() and port.isdecimal()) or not 0 <= int(port) <= 65535:
        raise OptionsError(f'"{text}" is not an address: write host:port, such as 127.0.0.1:2525 or [::1]:2525')
    return host, int(port)


def _read(file: Path) -> Options:
    try:
        return msgspec.toml.decode(file.read_bytes(), type=Options)
    except OSError as error:
        raise OptionsError(f"cannot read {file}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise OptionsError(f"{file}: {error}") from error
    except ValueError as error:
        raise OptionsError(f"{file} is not TOML: {error}") from error


def _check(options: Options) -> None:
    for text in _addresses(options):
        split_address(text)
    for listener in options.mta.listeners:
        for trusted in listener.trusted:
            try:
                ipaddress.ip_network(trusted.network)
            except ValueError as error:
                raise OptionsError(f"mta.listeners.trusted.network: {error}") from error
    networks = {
        "control.webhooks.allowed_networks": options.control.webhooks.allowed_networks,
        "bridge.trusted_forwarders": options.bridge.trusted_forwarders,
    }
    for name, values in networks.items():
        for network in values:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise OptionsError(f"{name}: {error}") from error
    for name, files in (("mta.tls", options.mta.tls), ("bridge.tls", options.bridge.tls)):
        if bool(files.certificate_file) != bool(files.key_file):
            raise OptionsError(f"{name}: certificate_file and key_file go together; one of them is empty")
    _check_grpc_tls(options)
    ids = [tenant.id for tenant in options.bootstrap.tenants]
    if len(ids) != len(set(ids)):
        raise OptionsError("bootstrap.tenants: two tenants have the same id")
    for tenant in options.bootstrap.tenants:
        if bool(tenant.username) != bool(tenant.password_file):
            raise OptionsError(f"bootstrap.tenants: {tenant.id} needs both username and password_file, or neither")


def _check_grpc_tls(options: Options) -> None:
    servers: dict[str, ServerTlsOptions] = {"control.tls": options.control.tls, "node.tls": options.node.tls}
    for name, tls in servers.items():
        if bool(tls.certificate_file) != bool(tls.key_file):
            raise OptionsError(f"{name}: certificate_file and key_file go together; one of them is empty")
        if tls.client_ca_file and not tls.certificate_file:
            raise OptionsError(f"{name}: client_ca_file needs certificate_file and key_file, too")
    if options.control.tls.client_listen and not options.control.tls.client_ca_file:
        raise OptionsError("control.tls: client_listen needs client_ca_file")
    for name, client in (("control_client", options.control_client), ("node_client", options.node_client)):
        if bool(client.certificate_file) != bool(client.key_file):
            raise OptionsError(f"{name}: certificate_file and key_file go together; one of them is empty")
        if client.certificate_file and not client.ca_file:
            raise OptionsError(f"{name}: a client certificate needs ca_file, too")


def _addresses(options: Options) -> list[str]:
    return [
        options.control.listen,
        options.control.metrics_listen,
        *filter(None, [options.control.tls.client_listen]),
        options.node.listen,
        options.node.metrics_listen,
        options.node.control_address,
        options.bridge.listen,
        options.bridge.metrics_listen,
        options.bridge.control_address,
        options.inbox.http_listen,
        options.inbox.smtp_listen,
        options.inbox.dns_listen,
        *options.control.dns_nameservers,
        *([options.control.mta_address] if options.control.mta_address else []),
        *options.mta.dns.nameservers,
        *(listener.listen for listener in options.mta.listeners),
        *(route.target for route in options.mta.routes),
    ]


def reference() -> str:
    """The reference page of all options, as Markdown."""
    lines = ["# Options", "", "Generated from `mta/runtime/options.py`. One TOML file configures every program.", ""]
    _describe(Options, "", lines)
    return "\n".join(lines).rstrip() + "\n"


def _describe(section: type[Section], prefix: str, lines: list[str]) -> None:
    title = f"`[{prefix.rstrip('.')}]`" if prefix else "Top level"
    lines += [f"## {title}", "", (section.__doc__ or "").strip(), ""]
    lines += ["| option | default | meaning |", "| --- | --- | --- |"]
    hints = get_type_hints(section, include_extras=True)
    nested: list[tuple[str, type[Section]]] = []
    defaults = {info.name: info for info in msgspec.structs.fields(section)}
    for name, hint in hints.items():
        inner = _section_in(hint)
        if inner is not None:
            nested.append((f"{prefix}{name}.", inner))
        if inner is None or getattr(hint, "__metadata__", None):
            lines.append(f"| `{name}` | {_default(defaults[name])} | {_meaning(hint)} |")
    lines.append("")
    for path, inner in nested:
        _describe(inner, path, lines)


def _section_in(hint: object) -> type[Section] | None:
    for candidate in (hint, *get_args(hint), *(arg for outer in get_args(hint) for arg in get_args(outer))):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _default(info: msgspec.structs.FieldInfo) -> str:
    if info.default_factory is not msgspec.NODEFAULT:
        value = info.default_factory()
        return "none" if not value else "see below"
    if info.default is msgspec.NODEFAULT:
        return "required"
    value = info.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _meaning(hint: object) -> str:
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
    if not metas or not metas[0].description:
        raise OptionsError(f"an option has no description: {hint}")
    return metas[0].description.replace("|", "\\|")
