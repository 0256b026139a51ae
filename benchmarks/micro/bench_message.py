"""What the pure steps between the final dot and the spool cost: addresses, ids, headers, DKIM.

``python -m benchmarks.micro.bench_message`` prints microseconds per call (best of several rounds, because other load
on the machine only ever adds) beside the recorded ceiling: what the same machine took, with room to spare, when the
step was written. A figure above its ceiling is marked; it is a reason to look, not a failed test.

The message is 4 KB with 8 fields. "All but the signatures" is everything DKIM does for an RSA and an Ed25519 signature
together, less the two signature primitives themselves.
"""

import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mta.mailauth.dkim import Algorithm, SigningKey, canonical_body, sign
from mta.message import ids
from mta.message.address import parse_path
from mta.message.headers import Headers, prepare, received_field, scan
from mta.message.mailboxes import parse_header_address

ROUNDS = 9
ROUND_SECONDS = 0.05
DATE = "Fri, 21 Nov 2025 22:19:00 +0000"
NOW_MS = 1_763_763_540_000
HEADER = (
    b"From: Joe SixPack <joe@demo.test>\r\nTo: Suzie Q <suzie@example.net>\r\nSubject: Is dinner ready?\r\n"
    b"Date: Fri, 21 Nov 2025 22:19:00 +0000\r\nMessage-ID: <5F8J@demo.test>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
)
TEXT = (
    HEADER
    + (b"The quick brown fox jumps over the lazy dog and runs away from it.\r\n" * 60)[: 4096 - len(HEADER) - 2]
    + b"\r\n"
)
HTML_BODY = b'<tr>\r\n    <td class="x">\tSome text in a cell</td>   \r\n</tr>\r\n' * 66


class Unsigned(SigningKey):
    """A key whose signature costs nothing."""

    __slots__ = ()

    def signature(self, digest: bytes) -> bytes:
        return digest * 8


def microseconds(call: Callable[[], object]) -> float:
    """Best of several rounds, per call."""
    call()
    start = time.perf_counter()
    call()
    calls = max(1, int(ROUND_SECONDS / max(time.perf_counter() - start, 1e-7)))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - start) / calls)
    return best * 1e6


def complete(content: bytes) -> Headers:
    """What custody does with the header of each message."""
    received = received_field(
        helo="client.test", peer="192.0.2.1", by="mx.demo.test", protocol="ESMTPSA", id_="1", recipient=None, date=DATE
    )
    return prepare(scan(content), received=received, date=DATE, message_id="<1@demo.test>", sender=None, sender_name="")


def steps() -> list[tuple[str, float, Callable[[], object]]]:
    """(name, ceiling in microseconds, call)."""
    octets = [
        private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for private in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate())
    ]
    algorithms = (Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256)
    names = ("r1", "e1")
    keys = [SigningKey("demo.test", *key) for key in zip(names, algorithms, octets, strict=True)]
    free = [Unsigned("demo.test", *key) for key in zip(names, algorithms, octets, strict=True)]
    headers = complete(TEXT)
    content, text_body = headers.content, TEXT[len(HEADER) :]
    uncached = parse_path.__wrapped__
    maker = ids.IdMaker(1)
    return [
        ("parse_path, seen before", 0.3, lambda: parse_path("john.doe@example.com")),
        ("parse_path, new", 4, lambda: uncached("john.doe@example.com")),
        ("parse_path, new, internationalised", 30, lambda: uncached("jürgen@bücher.example")),
        ("parse_header_address", 9, lambda: parse_header_address("Joe SixPack <joe@demo.test>")),
        ("IdMaker.next", 0.5, lambda: maker.next(NOW_MS)),
        ("message_id", 1.5, lambda: ids.message_id(123_456_789_012_345_678, "demo.test")),
        ("scan", 12, lambda: scan(TEXT)),
        ("scan, received_field, prepare", 18, lambda: complete(TEXT)),
        ("canonical_body, text", 9, lambda: canonical_body(text_body)),
        ("canonical_body, HTML with indents", 35, lambda: canonical_body(HTML_BODY)),
        ("sign, all but the signatures", 30, lambda: sign(content, headers, free, 1_763_763_540, 604_800)),
        ("sign, Ed25519", 80, lambda: sign(content, headers, keys[1:], 1_763_763_540, 604_800)),
        ("sign, RSA-2048 and Ed25519", 480, lambda: sign(content, headers, keys, 1_763_763_540, 604_800)),
    ]


def main() -> None:
    """Prints the table."""
    print(f"{'step':40} {'us':>8} {'ceiling':>8}")
    for name, ceiling, call in steps():
        taken = microseconds(call)
        print(f"{name:40} {taken:8.2f} {ceiling:8.1f}{'  above' if taken > ceiling else ''}")


if __name__ == "__main__":
    main()
