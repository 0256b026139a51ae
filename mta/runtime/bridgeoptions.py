"""The options of the bridge: its server, and the APIs that it speaks. Part of ``options``, which has all of them."""

from typing import Annotated

from msgspec import Meta, field

from mta.runtime.section import Section


class DialectOptions(Section, frozen=True):
    """An API that the bridge speaks."""

    enabled: Annotated[bool, Meta(description="Whether its paths are served.")] = True
    hosts: Annotated[
        list[str],
        Meta(description="Host names, without port, under which its paths are served; empty: all."),
    ] = field(default_factory=list)
    requests_per_second: Annotated[
        float, Meta(ge=0, le=1_000_000, description="Requests with one key or login, on average; 0: no limit.")
    ] = 0.0
    burst: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Requests of one key at once; 0: those of one second, at least one.")
    ] = 0


class MSpaceOptions(DialectOptions, frozen=True):
    """MSpace Bulk Email."""

    errors_as_200: Annotated[
        bool, Meta(description='Answer errors with HTTP 200, for clients that read only "status".')
    ] = False


class SendPulseOptions(DialectOptions, frozen=True):
    """SendPulse SMTP service."""

    page_size: Annotated[
        int, Meta(ge=1, le=1000, description="Rows of a list: the default, and the most there are.")
    ] = 100
    raw_html: Annotated[
        bool, Meta(description='Take "html" that is not in Base64 as it is, if there is a "<" in it.')
    ] = True
    last_day_only: Annotated[
        bool, Meta(description='Tell bounces of the last 24 hours only, whatever "date" says.')
    ] = False
    track_opens: Annotated[bool, Meta(description="Count opens of HTML mail, with bridge.public_url.")] = True
    track_clicks: Annotated[bool, Meta(description="Count clicks in HTML mail, with bridge.public_url.")] = True
    unsubscribe_links: Annotated[
        bool,
        Meta(
            description="Give messages a List-Unsubscribe field, and a link in place of {{unsubscribe_url}}, with "
            "bridge.public_url."
        ),
    ] = True


class MailPassOptions(DialectOptions, frozen=True):
    """MailPass Mail Send."""

    track_opens: Annotated[bool, Meta(description="Count opens of HTML mail, with bridge.public_url.")] = True
    track_clicks: Annotated[bool, Meta(description="Count clicks in HTML mail, with bridge.public_url.")] = True
    wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=20,
            description="A single send waits so long for a final refusal, which it answers with SEND_FAILED; "
            "0: it does not wait.",
        ),
    ] = 0.0


class SendPostOptions(DialectOptions, frozen=True):
    """SendPost."""

    contract: Annotated[
        str,
        Meta(
            pattern="^(v1|legacy)$",
            description='Response contract for requests without X-SendPost-Public-Contract: "v1" or "legacy".',
        ),
    ] = "v1"
    legacy_sunset: Annotated[
        str,
        Meta(
            pattern=r"^20\d\d-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))$",
            description="Day that answers in the legacy contract name as their end (Sunset); nothing follows from it.",
        ),
    ] = "2028-12-31"


class DialectsOptions(Section, frozen=True):
    """The APIs that the bridge speaks."""

    mspace: MSpaceOptions = field(default_factory=MSpaceOptions)
    sendpulse: SendPulseOptions = field(default_factory=SendPulseOptions)
    mailpass: MailPassOptions = field(default_factory=MailPassOptions)
    sendpost: SendPostOptions = field(default_factory=SendPostOptions)

    def named(self) -> dict[str, DialectOptions]:
        """What all of them have, by the dialect's name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class BridgeTlsOptions(Section, frozen=True):
    """TLS (1.2 or newer) of the HTTP server: HTTPS. Files that change are read again, at the latest with SIGHUP."""

    certificate_file: Annotated[str, Meta(description="PEM with the chain; empty: plain HTTP.")] = ""
    key_file: Annotated[str, Meta(description="PEM with the private key.")] = ""


class BridgeOptions(Section, frozen=True):
    """The JSON bridge."""

    listen: Annotated[str, Meta(description="Address of the HTTP server, host:port.")] = "127.0.0.1:8080"
    public_url: Annotated[
        str,
        Meta(
            description="Where recipients' programs reach this bridge, such as https://mail.example.com: links for "
            "opens, clicks and unsubscribing lead there. Empty: messages get no such links."
        ),
    ] = ""
    metrics_listen: Annotated[str, Meta(description="Address of /metrics, host:port.")] = "127.0.0.1:9472"
    control_address: Annotated[str, Meta(description="gRPC address of control, host:port.")] = "127.0.0.1:7070"
    mta_addresses: Annotated[
        list[str], Meta(description="gRPC addresses of the MTA; empty: the Unix sockets of this machine's workers.")
    ] = field(default_factory=list)
    trusted_forwarders: Annotated[
        list[str],
        Meta(
            description="Networks of reverse proxies, such as 10.1.0.0/16, whose X-Forwarded-For and "
            "X-Forwarded-Proto are believed; empty: nobody's."
        ),
    ] = field(default_factory=list)
    body_bytes: Annotated[int, Meta(ge=1024, description="Size of a request body.")] = 36_700_160
    timeout_seconds: Annotated[float, Meta(gt=0, description="For each gRPC call.")] = 20.0
    tls: BridgeTlsOptions = field(default_factory=BridgeTlsOptions)
    dialects: DialectsOptions = field(default_factory=DialectsOptions)

    @property
    def scheme(self) -> str:
        """What URLs of this bridge begin with."""
        return "https" if self.tls.certificate_file else "http"
