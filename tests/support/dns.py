"""An authoritative DNS server for tests, over UDP and TCP on one free loopback port.

It is authoritative for everything: names it has no records of do not exist. Records are given as text, as in a zone
file; failures are scripted per name. It counts what it is asked. ::

    with DnsServer({("example.net", "MX"): ["10 mx.example.net."], ("mx.example.net", "A"): ["127.0.0.1"]}) as server:
        server.fail("example.net", Failure.SERVFAIL)

Names are absolute without the final dot, in any case. Records and failures may be changed while it runs, from any
thread.

Limits: no zone cuts, DNSSEC or zone transfer. CNAMEs are followed within its own records. ``*`` as the first label
answers for names that do not exist.
"""

import contextlib
import socketserver
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.support.ports import free_port

TTL = 60
SOA = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 60"
_CNAME_DEPTH = 16
_UDP_SIZE = 512


class Failure(Enum):
    """What goes wrong with a name."""

    SERVFAIL = auto()
    REFUSED = auto()
    NXDOMAIN = auto()
    DROP = auto()
    """No answer at all: the client's timeout counts."""
    TRUNCATE = auto()
    """An empty truncated answer over UDP; TCP works."""


class DnsServer:
    """The server. Use as a context manager, or ``start`` and ``stop``."""

    def __init__(self, records: Mapping[tuple[str, str], Iterable[str]] | None = None) -> None:
        self.port = free_port()
        self.queries: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self._failures: dict[dns.name.Name, Failure] = {}
        self._servers: list[socketserver.BaseServer] = []
        self._threads: list[threading.Thread] = []
        for (name, kind), values in (records or {}).items():
            self.set(name, kind, *values)

    @property
    def address(self) -> str:
        """host:port, as nameserver options want it."""
        return f"127.0.0.1:{self.port}"

    def set(self, name: str, kind: str, *values: str, ttl: int = TTL) -> None:
        """Make ``values`` all records of that name and type; none: remove them. TXT values are quoted by the caller."""
        key = _key(name), dns.rdatatype.from_text(kind)
        with self._lock:
            if values:
                self._records[key] = dns.rrset.from_text_list(key[0], ttl, "IN", kind, values)
            else:
                self._records.pop(key, None)

    def set_text(self, name: str, value: str) -> None:
        """Publish a TXT record of any length, in pieces of 255 octets."""
        pieces = [value[start : start + 255] for start in range(0, len(value), 255)] or [""]
        self.set(name, "TXT", " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces))

    def fail(self, name: str, failure: Failure | None) -> None:
        """From now on let every query for ``name`` go wrong; None: let it work again."""
        with self._lock:
            if failure is None:
                self._failures.pop(_key(name), None)
            else:
                self._failures[_key(name)] = failure

    def count(self, name: str, kind: str) -> int:
        """How often that was asked."""
        with self._lock:
            return self.queries[name.lower().rstrip("."), kind]

    def start(self) -> Self:
        """Listen, each transport in a thread of its own."""
        owner = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, endpoint = self.request
                reply = owner.answer(data, udp=True)
                if reply is not None:
                    endpoint.sendto(reply, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while len(size := self.rfile.read(2)) == 2:
                    reply = owner.answer(self.rfile.read(int.from_bytes(size)), udp=False)
                    if reply is None:
                        return
                    self.wfile.write(len(reply).to_bytes(2) + reply)

        self._servers = [_UdpServer(("127.0.0.1", self.port), Udp), _TcpServer(("127.0.0.1", self.port), Tcp)]
        for server in self._servers:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._servers.clear()
        self._threads.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answer(self, data: bytes, *, udp: bool) -> bytes | None:
        """The reply to a query, or None for none."""
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        question = query.question[0]
        with self._lock:
            self.queries[_text(question.name), dns.rdatatype.to_text(question.rdtype)] += 1
            failure = self._failures.get(_key(_text(question.name)))
            if failure is Failure.DROP:
                return None
            if failure is Failure.TRUNCATE and udp:
                response.flags |= dns.flags.TC
            elif failure in _RCODES:
                response.set_rcode(_RCODES[failure])
            else:
                self._resolve(question.name, question.rdtype, response)
        return _to_wire(response, max(query.payload, _UDP_SIZE) if udp else 65535)

    def _resolve(self, name: dns.name.Name, kind: dns.rdatatype.RdataType, response: dns.message.Message) -> None:
        for _ in range(_CNAME_DEPTH):
            owner = self._owner(_key(_text(name)))
            if owner is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            found = self._records.get((owner, kind))
            alias = self._records.get((owner, dns.rdatatype.CNAME))
            chosen = found or alias
            if chosen is None:
                break
            response.answer.append(_renamed(chosen, name))
            if found is not None:
                return
            name = chosen[0].target
        response.authority.append(dns.rrset.from_text(dns.name.root, TTL, "IN", "SOA", SOA))

    def _owner(self, name: dns.name.Name) -> dns.name.Name | None:
        """The name whose records answer for ``name``: itself, or a wildcard; None: it does not exist."""
        names = {owner for owner, _ in self._records}
        if any(owner.is_subdomain(name) for owner in names):
            return name
        while name != dns.name.root:
            name = name.parent()
            wildcard = dns.name.Name((b"*", *name.labels))
            if wildcard in names:
                return wildcard
            if any(owner.is_subdomain(name) for owner in names):
                return None
        return None


_RCODES = {
    Failure.SERVFAIL: dns.rcode.SERVFAIL,
    Failure.REFUSED: dns.rcode.REFUSED,
    Failure.NXDOMAIN: dns.rcode.NXDOMAIN,
}


class _UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True
    allow_reuse_address = True


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-query is no error of the test."""
        with contextlib.suppress(OSError):
            request.close()


def _key(name: str) -> dns.name.Name:
    return dns.name.from_text(name.lower())


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _renamed(rrset: dns.rrset.RRset, name: dns.name.Name) -> dns.rrset.RRset:
    """The same records under the name that was asked for: wildcards, and the question's own case."""
    return dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset))


def _to_wire(response: dns.message.Message, size: int) -> bytes:
    try:
        return response.to_wire(max_size=size)
    except dns.exception.TooBig:
        response.answer.clear()
        response.authority.clear()
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=size)
