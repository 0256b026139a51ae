"""The demo's DNS: answers for the domains that have a zone file, and passes every other question on.

A file ``zones/shop.test.zone`` below home makes the server authoritative for shop.test and all below it. It holds lines
as ``barua domain records`` writes them and as a real zone would have them (RFC 1035 §5.1), and is read anew for each
question: what is saved is published. So a domain can be claimed, verified and its keys rotated on one machine, by the
same questions that control asks the real DNS.

A file that cannot be read as a zone is SERVFAIL for its domain, and an error in the log. Other names below "test" and
the like, which are reserved for this, do not exist. All others go to the nameservers of the system; without one that
answers, SERVFAIL.

Limits: UDP only; no zone cuts, DNSSEC or zone transfer; aliases are not followed. Loop: asyncio; a file of a demo is
read faster than it would be handed to a thread.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
import dns.zonefile

from mta.runtime import log as logs
from mta.runtime.lifecycle import Tasks
from mta.runtime.options import OptionsError, split_address

FOLDER = "zones"
"""Below home."""
SUFFIX = ".zone"
TTL = 60
"""Of lines that do not say."""
FORWARD_SECONDS = 2.0
"""For one nameserver of the system; control waits for four seconds."""
FORWARD_SERVERS = 2
DNS_PORT = 53
SPECIAL = tuple(map(dns.name.from_text, ("test", "example", "invalid", "localhost")))
"""Names that are not passed on."""
MAX_WAITING = 100
"""Questions being passed on at once; more are dropped, as a busy nameserver does."""

log = logs.get_logger(__name__)


class Nameserver(asyncio.DatagramProtocol):
    """The server. ``listen`` makes one."""

    def __init__(self, folder: Path, tasks: Tasks) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._tasks = tasks
        self._waiting = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is not derived from asyncio's

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question; what is no question gets no answer."""
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        if query.flags & dns.flags.QR or len(query.question) != 1:
            return
        name = query.question[0].name
        zone = zone_of(self._folder, name)
        if zone is not None:
            self._send(answer(self._folder, zone, query), addr)
        elif any(name.is_subdomain(special) for special in SPECIAL):
            self._send(failure(query, dns.rcode.NXDOMAIN), addr)
        elif self._waiting < MAX_WAITING:
            self._waiting += 1
            self._tasks.start(self._pass_on(query, addr), "dns")

    async def _pass_on(self, query: dns.message.Message, addr: tuple[str, int]) -> None:
        try:
            self._send(await forwarded(query, system_servers()), addr)
        finally:
            self._waiting -= 1

    def _send(self, response: dns.message.Message, addr: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(response.to_wire(max_size=65_000), addr)


async def listen(address: str, folder: Path, tasks: Tasks) -> asyncio.DatagramTransport:
    """Serve on ``address`` until the transport is closed; make the folder. Raises OptionsError."""
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    server = Nameserver(folder, tasks)
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=(host, port))
    except OSError as error:
        raise OptionsError(f"inbox.dns_listen: cannot listen on {host}:{port}: {error.strerror}") from error
    return transport


def zone_of(folder: Path, name: dns.name.Name) -> str | None:
    """The domain, of those with a file, that a name belongs to: the longest one."""
    files = {file.stem.lower() for file in folder.glob(f"*{SUFFIX}")}
    labels = name.to_text(omit_final_dot=True).lower().split(".")
    tails = (".".join(labels[start:]) for start in range(len(labels)))
    return next((tail for tail in tails if tail in files), None)


def answer(folder: Path, zone: str, query: dns.message.Message) -> dns.message.Message:
    """The authoritative answer from a zone's file."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    asked = query.question[0]
    try:
        records = read(folder / f"{zone}{SUFFIX}", zone)
    except (OSError, ValueError, dns.exception.DNSException) as error:
        log.error("zone_not_read", zone=zone, error=str(error) or type(error).__name__)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response
    wanted = (asked.rdtype, dns.rdatatype.CNAME)
    response.answer = [rrset for rrset in records if rrset.name == asked.name and rrset.rdtype in wanted]
    if not any(rrset.name.is_subdomain(asked.name) for rrset in records):
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def read(file: Path, zone: str) -> Sequence[dns.rrset.RRset]:
    """The records of a file. Raises OSError, ValueError, dns.exception.DNSException."""
    return dns.zonefile.read_rrsets(
        file.read_text(encoding="ascii"),
        rdclass=None,
        default_rdclass=dns.rdataclass.IN,
        default_ttl=TTL,
        origin=dns.name.from_text(zone),
        relativize=False,
    )


async def forwarded(query: dns.message.Message, servers: Sequence[tuple[str, int]]) -> dns.message.Message:
    """What the first of other nameservers (address and port) says that answers."""
    for host, port in servers:
        try:
            response, _ = await dns.asyncquery.udp_with_fallback(query, host, timeout=FORWARD_SECONDS, port=port)
        except (dns.exception.DNSException, OSError, ValueError):
            continue
        return response
    return failure(query, dns.rcode.SERVFAIL)


def system_servers() -> list[tuple[str, int]]:
    """The nameservers of the system, as it is configured now."""
    try:
        found = dns.resolver.Resolver().nameservers
    except dns.resolver.NoResolverConfiguration:
        return []
    return [(str(server), DNS_PORT) for server in found[:FORWARD_SERVERS]]


def failure(query: dns.message.Message, code: dns.rcode.Rcode) -> dns.message.Message:
    """An answer without records."""
    response = dns.message.make_response(query)
    response.set_rcode(code)
    return response
