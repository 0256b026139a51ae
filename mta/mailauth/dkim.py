"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463), one per key, all over one pass through the message.

Relaxed/relaxed canonicalisation, no `l=`, `t=` and optionally `x=`. Signed are the fields in `SIGNED`: every one that
is present, plus each once more, so that a field added later breaks the signature (RFC 6376 §8.15). The body is hashed
once and the header canonicalised once for all keys.

`sign` expects the message as it will be sent (see `mta.message.headers.prepare`): lines end with CRLF, no CR or LF on
its own. It returns DKIM-Signature fields to be put in front of it.

Errors: SigningKeyError for a key that cannot be used. Pure: Ed25519 and RSA with PKCS #1 v1.5 need no randomness. Any
thread.

Costs: an RSA-2048 signature is about 0.4 ms of CPU, everything else is measured by benchmarks/micro/bench_message.py.
"""

import binascii
import hashlib
import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_private_key

from mta.message.headers import Headers, scan

SIGNED = tuple(
    b"from to cc subject date message-id reply-to mime-version content-type content-transfer-encoding list-id list-help"
    b" list-subscribe list-unsubscribe list-unsubscribe-post list-post list-owner list-archive".split()
)
"""Fields signed when present, and sealed against addition."""

MIN_RSA_BITS = 1024

_POSITION = {name: position for position, name in enumerate(SIGNED)}
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})?)*")
_PADDING = padding.PKCS1v15()
_SHA256 = hashes.SHA256()
_PREHASHED = Prehashed(_SHA256)


class SigningKeyError(ValueError):
    """The key cannot be used for signing. The message names domain and selector, never key material."""


class Algorithm(Enum):
    """Signature algorithms, by their names in the `a=` tag."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


class SigningKey:
    """A private key and the name it is published under. Loading costs up to a millisecond: keep and reuse."""

    __slots__ = ("_head", "_private", "algorithm", "domain", "selector")

    def __init__(self, domain: str, selector: str, algorithm: Algorithm, private_key_der: bytes) -> None:
        """`domain`: A-labels, lower case. `private_key_der`: PKCS #8, DER, unencrypted. Raises SigningKeyError."""
        if not _DOMAIN.fullmatch(domain) or not _SELECTOR.fullmatch(selector):
            raise SigningKeyError(f"'{selector}' and '{domain}' are no selector and domain")
        self.domain = domain
        self.selector = selector
        self.algorithm = algorithm
        self._private = _load(algorithm, private_key_der, f"the key {selector} of {domain}")
        self._head = (
            f"DKIM-Signature: v=1; a={algorithm.value}; c=relaxed/relaxed; d={domain};\r\n\ts={selector}; "
        ).encode("ascii")

    def __repr__(self) -> str:
        return f"<SigningKey {self.algorithm.value} {self.selector}._domainkey.{self.domain}>"

    def signature(self, digest: bytes) -> bytes:
        """The signature over a SHA-256 digest: RSASSA-PKCS1-v1_5 or PureEd25519 of the digest (RFC 8463 §3)."""
        private = self._private
        if isinstance(private, rsa.RSAPrivateKey):
            return private.sign(digest, _PADDING, _PREHASHED)
        return private.sign(digest)


def _load(algorithm: Algorithm, der: bytes, which: str) -> rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey:
    # OpenSSL's full check of an RSA key takes 46 ms, too long for an event loop; keys come from our own sealed store,
    # and one signature that verifies (0.3 ms) finds a damaged one.
    try:
        private = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningKeyError(f"{which} is no unencrypted PKCS #8 key in DER") from None
    if algorithm is Algorithm.RSA_SHA256 and isinstance(private, rsa.RSAPrivateKey):
        if private.key_size < MIN_RSA_BITS:
            raise SigningKeyError(f"{which} has {private.key_size} bits; RFC 8301 asks for {MIN_RSA_BITS} at least")
        try:
            private.public_key().verify(private.sign(b"", _PADDING, _SHA256), b"", _PADDING, _SHA256)
        except (InvalidSignature, ValueError):
            raise SigningKeyError(f"{which} is damaged: its numbers do not belong together") from None
        return private
    if algorithm is Algorithm.ED25519_SHA256 and isinstance(private, ed25519.Ed25519PrivateKey):
        return private
    raise SigningKeyError(f"{which} is not a key for {algorithm.value}")


def sign(
    content: bytes, headers: Headers | None, keys: Sequence[SigningKey], signed_at: int, expires_after: int | None
) -> bytes:
    """DKIM-Signature fields for a message, one per key in the order of `keys`, each with its final CRLF.

    `headers`: the scanned header of the same `content`; None scans it (raises MessageError). `signed_at`: Unix seconds;
    not in the future. `expires_after`: seconds until `x=`, None for no expiry. Empty result for no keys.
    """
    if not keys:
        return b""
    if headers is None:
        headers = scan(content)
    counts, hashed = _header_hash(content, headers)
    body_hash = hashlib.sha256(canonical_body(content[headers.body :])).digest()
    expiry = b"" if expires_after is None else b" x=%d;" % (signed_at + expires_after)
    tail = b"t=%d;%b\r\n\tbh=%b;\r\n\th=%b;\r\n\tb=" % (signed_at, expiry, _base64(body_hash), _signed_names(counts))
    return b"".join([_one(key, tail, hashed) for key in keys])


def _one(key: SigningKey, tail: bytes, hashed: "hashlib._Hash") -> bytes:
    """One field. `hashed` has taken in the canonical header fields; every field here comes last with an empty b=."""
    field = key._head + tail
    digest = hashed.copy()
    # Relaxed form of our own field: it contains no white space but single spaces and these folds.
    digest.update(b"dkim-signature:" + field[16:].replace(b"\r\n\t", b" "))
    signature = _base64(key.signature(digest.digest()))
    return field + b"\r\n\t".join([signature[at : at + 72] for at in range(0, len(signature), 72)]) + b"\r\n"


def _base64(octets: bytes) -> bytes:
    return binascii.b2a_base64(octets, newline=False)


def _header_hash(content: bytes, headers: Headers) -> tuple[bytes, "hashlib._Hash"]:
    """How often each field of SIGNED is present (one octet each), and the hash over their canonical forms.

    Repeated fields are taken from the bottom up (RFC 6376 §5.4.2).
    """
    counts = bytearray(len(SIGNED))
    chosen: list[tuple[int, bytes]] = []
    for name, start, end in reversed(headers.fields):
        position = _POSITION.get(name)
        if position is None or counts[position] == _MOST:
            continue
        counts[position] += 1
        chosen.append((position, canonical_field(name, content[start + len(name) + 1 : end])))
    chosen.sort(key=_by_position)
    return bytes(counts), hashlib.sha256(b"".join([field for _, field in chosen]))


# A List-* field may occur more than once; 200 of one name are signed, which leaves counts within an octet.
_MOST = 200


def _by_position(chosen: tuple[int, bytes]) -> int:
    return chosen[0]


@lru_cache(maxsize=1024)
def _signed_names(counts: bytes) -> bytes:
    """The `h=` list for these counts, each name once more than present, folded."""
    lines: list[bytes] = []
    line = b""
    for name, count in zip(SIGNED, counts, strict=True):
        for _ in range(count + 1):
            if len(line) + len(name) > 68:
                lines.append(line)
                line = b""
            line += name + b":"
    lines.append(line[:-1])
    return b"\r\n\t".join(lines)


def canonical_field(name: bytes, value: bytes) -> bytes:
    """Relaxed canonical form of a header field with its CRLF (RFC 6376 §3.4.2). `name` in lower case; `value` as found.

    Vertical tab and form feed would count as white space here; `scan` lets none in.
    """
    return b"%b:%b\r\n" % (name, b" ".join(value.split()))


def canonical_body(body: bytes) -> bytes:
    """Relaxed canonical form of a body with CRLF line ends (RFC 6376 §3.4.4). Linear time."""
    if b"\t" in body:
        body = body.replace(b"\t", b" ")
    # Each pass halves the longest run of spaces.
    while b"  " in body:
        body = body.replace(b"  ", b" ")
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    text = body.rstrip(b" \r\n") if body.endswith((b" ", b"\r\n\r\n")) else body
    if text == b"\r\n":
        return b""
    if text.endswith(b"\r\n") or not text:
        return text
    return text + b"\r\n"
