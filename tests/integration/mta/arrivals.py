"""What arrived at a sink: waiting for it, and checking its signatures with dkimpy and keys from the tests' own DNS."""

from dataclasses import dataclass

import dkim
import dns.message
import dns.query
import dns.rdatatype

from tests.support.dns import DnsServer
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.waiting import wait_until


def arrived(sink: RecordingSink, recipient: str, count: int = 1, timeout_seconds: float = 60) -> list[Received]:
    """Wait until ``count`` messages for a recipient are there; they, in order. Raises TimeoutError."""

    def found() -> list[Received]:
        return [received for received in sink.received if recipient in received.recipients]

    wait_until(lambda: len(found()) >= count, f"{count} messages for {recipient} have arrived", timeout_seconds)
    return found()


def one(sink: RecordingSink, recipient: str) -> Received:
    """Wait for the only message for a recipient."""
    (received,) = arrived(sink, recipient)
    return received


@dataclass(frozen=True, slots=True)
class Signature:
    """What dkimpy says of one DKIM-Signature field."""

    algorithm: str
    domain: str
    good: bool


def signatures(received: Received, server: DnsServer) -> list[Signature]:
    """Every signature of a message, by algorithm, checked with the key that ``server`` publishes."""

    def look_up(name: bytes, timeout: float = 5) -> bytes | None:
        query = dns.message.make_query(name.decode(), dns.rdatatype.TXT)
        answer, _ = dns.query.udp_with_fallback(query, "127.0.0.1", port=server.port, timeout=timeout)
        return next((b"".join(record.strings) for rrset in answer.answer for record in rrset), None)

    found = []
    for index in range(len(received.headers("DKIM-Signature"))):
        verifier = dkim.DKIM(received.content)
        good = verifier.verify(index, dnsfunc=look_up)
        fields = verifier.signature_fields
        found.append(Signature(fields[b"a"].decode(), fields[b"d"].decode(), good))
    return sorted(found, key=lambda signature: signature.algorithm)
