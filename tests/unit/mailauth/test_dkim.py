"""DKIM: our signatures against dkimpy, an independent verifier, and against the vectors of RFC 8463."""

import base64
import hashlib
from dataclasses import dataclass

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mta.mailauth.dkim import Algorithm, SigningKey, SigningKeyError, canonical_body, canonical_field, sign
from mta.message.headers import MessageError, scan

NOW = 1_763_763_540


def der(private: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


RSA_PRIVATE = rsa.generate_private_key(65537, 2048)
ED25519_PRIVATE = ed25519.Ed25519PrivateKey.generate()
RSA_KEY = SigningKey("demo.test", "r1", Algorithm.RSA_SHA256, der(RSA_PRIVATE))
ED25519_KEY = SigningKey("demo.test", "e1", Algorithm.ED25519_SHA256, der(ED25519_PRIVATE))
KEYS = (RSA_KEY, ED25519_KEY)


def _published() -> dict[bytes, bytes]:
    rsa_der = RSA_PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ed25519_raw = ED25519_PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        b"r1._domainkey.demo.test.": b"v=DKIM1; k=rsa; p=" + base64.b64encode(rsa_der),
        b"e1._domainkey.demo.test.": b"v=DKIM1; k=ed25519; p=" + base64.b64encode(ed25519_raw),
        # RFC 8463 appendix A.2
        b"brisbane._domainkey.football.example.com.": (
            b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        ),
    }


PUBLISHED = _published()


def verify(message: bytes, index: int) -> bool:
    """What dkimpy says about the signature at `index` from the top."""

    def look_up(name: bytes, timeout: int = 5) -> bytes | None:
        return PUBLISHED.get(name)

    try:
        return bool(dkim.DKIM(message).verify(index, dnsfunc=look_up))
    except dkim.DKIMException:
        return False


def signed(message: bytes) -> bytes:
    """With an expiry that is far off, because dkimpy looks at the clock."""
    return sign(message, None, KEYS, NOW, 10**9) + message


MESSAGE = (
    b"From: Joe <joe@demo.test>\r\nTo: x@y.zz\r\nSubject: hello\r\nDate: Fri, 21 Nov 2025 22:19:00 +0000\r\n"
    b"Message-ID: <1@demo.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nHello,\r\nworld.\r\n"
)


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        b"From: a@demo.test\r\n\r\n",
        b"From: a@demo.test\r\n\r\n\r\n",
        b"From: a@demo.test\r\n\r\n\r\n\r\n\r\n",
        b"From: a@demo.test\r\n\r\n \t \r\n\r\n",
        b"From: a@demo.test\r\n\r\n\r\n\r\ntext after empty lines\r\n",
        b"From: a@demo.test\r\n\r\ntrailing  \t \r\n  leading \t and   runs\t\tof space\r\n\r\n \r\n",
        b"From: a@demo.test\r\n\r\nno line end",
        b"From: a@demo.test\r\n\r\nno line end but space \t",
        b"From: a@demo.test\r\n\r\n\x80\xff octets\r\n",
        b"FROM:a@demo.test\r\nsubject:\t two\r\n  lines \r\n\tand  three \r\nX:y\r\n\r\nb\r\n",
        "From: Jürgen <a@demo.test>\r\nSubject: é\r\n\r\né\r\n".encode(),
        b"From: a@demo.test\r\nList-Id: <a>\r\nList-Id: <b>\r\nList-Id:\r\n <c>\r\n\r\nb\r\n",
        b"From: a@demo.test\r\nSubject:\r\nTo: \r\n\r\nb\r\n",
        b"Received: x\r\nFrom: a@demo.test\r\nDKIM-Signature: v=1; a=rsa-sha256; d=other.test\r\n\r\nb\r\n",
    ],
)
def test_both_signatures_verify(message: bytes) -> None:
    result = signed(message)
    # SMTP ends the last line.
    sent = result if result.endswith(b"\r\n") else result + b"\r\n"
    assert verify(sent, 0)
    assert verify(sent, 1)


def test_a_message_without_any_field_can_be_signed() -> None:
    assert sign(b"just text\r\n", None, KEYS, NOW, None).count(b"DKIM-Signature: ") == 2


def test_the_tags() -> None:
    fields = sign(MESSAGE, scan(MESSAGE), KEYS, NOW, 600)
    nothing, first, second = fields.split(b"DKIM-Signature: ")
    assert nothing == b""
    assert b" ".join(first.split()).startswith(
        b"v=1; a=rsa-sha256; c=relaxed/relaxed; d=demo.test; s=r1; t=1763763540; x=1763764140; bh="
    )
    assert b"a=ed25519-sha256; " in second
    assert b"s=e1; " in second
    for field in (first, second):
        assert b"l=" not in field.replace(b"bh=", b"").split(b"h=")[0]
        tags = dict(tag.split(b"=", 1) for tag in b"".join(field.split()).split(b";"))
        names = tags[b"h"].split(b":")
        present = [name for name, _, _ in scan(MESSAGE).fields]
        for name in names:
            assert names.count(name) == present.count(name) + 1
        for name in b"from to cc subject date message-id reply-to mime-version content-type".split():
            assert name in names
        assert b"content-transfer-encoding" in names
        assert b"list-unsubscribe-post" in names


def test_lines_are_short_and_end_properly() -> None:
    fields = sign(MESSAGE, None, KEYS, NOW, 600)
    assert fields.endswith(b"\r\n")
    lines = fields[:-2].split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert all(line.startswith((b"\t", b"DKIM-Signature: ")) for line in lines)


def test_without_expiry_and_without_keys() -> None:
    assert b"x=" not in sign(MESSAGE, None, [ED25519_KEY], NOW, None).split(b"bh=")[0]
    assert sign(MESSAGE, None, [], NOW, None) == b""


@pytest.mark.parametrize(
    "field",
    [
        b"From: evil@evil.test\r\n",
        b"Subject: other\r\n",
        b"To: other@y.zz\r\n",
        b"Cc: other@y.zz\r\n",
        b"Reply-To: evil@evil.test\r\n",
        b"Date: Sat, 22 Nov 2025 22:19:00 +0000\r\n",
        b"Message-ID: <2@evil.test>\r\n",
        b"MIME-Version: 1.0\r\n",
        b"Content-Type: text/html\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"List-Unsubscribe: <https://evil.test/>\r\n",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        b"List-Id: evil\r\n",
    ],
)
def test_a_field_added_above_or_below_breaks_the_signatures(field: bytes) -> None:
    fields = sign(MESSAGE, None, KEYS, NOW, None)
    above = fields + field + MESSAGE
    below = fields + MESSAGE.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n", 1)
    for message in (above, below):
        assert not verify(message, 0)
        assert not verify(message, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"world", b"world!"), (b"hello", b"Hello"), (b"world.\r\n", b"world.\r\nadded\r\n"), (b"joe@", b"eve@")],
)
def test_a_change_breaks_the_signatures(old: bytes, new: bytes) -> None:
    changed = signed(MESSAGE).replace(old, new, 1)
    assert changed != signed(MESSAGE)
    assert not verify(changed, 0)
    assert not verify(changed, 1)


def test_what_relays_may_do_does_not_break_the_signatures() -> None:
    relayed = b"Received: by relay.test\r\n" + signed(MESSAGE).replace(b"Subject: hello", b"SUBJECT:\r\n\thello ")
    relayed = relayed.replace(b"Hello,\r\n", b"Hello, \t\r\n") + b"\r\n\r\n"
    assert verify(relayed, 0)
    assert verify(relayed, 1)


def test_what_cannot_be_scanned_cannot_be_signed() -> None:
    with pytest.raises(MessageError, match="more than one From"):
        sign(b"From: a@b.co\r\nFrom: c@d.ee\r\n\r\n", None, KEYS, NOW, None)


@pytest.mark.parametrize(
    ("body", "canonical"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n\r\n", b""),
        (b" ", b""),
        (b" \t\r\n", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a\r\n\r\n\r\n", b"a\r\n"),
        (b"a \t\r\n \r\n", b"a\r\n"),
        (b"a\r\n ", b"a\r\n"),
        (b"\ta\t\tb \t c\r\n", b" a b c\r\n"),
        (b"\r\n\r\na\r\n", b"\r\n\r\na\r\n"),
        # RFC 6376 §3.4.5
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
    ],
)
def test_relaxed_bodies(body: bytes, canonical: bytes) -> None:
    assert canonical_body(body) == canonical


def test_relaxed_fields() -> None:
    # RFC 6376 §3.4.5
    assert canonical_field(b"a", b" X\r\n") == b"a:X\r\n"
    assert canonical_field(b"b", b"\tY\t\r\n\tZ  \r\n") == b"b:Y Z\r\n"
    assert canonical_field(b"c", b"") == b"c:\r\n"


def test_long_runs_of_space_and_empty_lines_take_linear_time() -> None:
    assert canonical_body(b"a" + b" \t" * 2_000_000 + b"b" + b"\r\n" * 2_000_000) == b"a b\r\n"
    assert canonical_body((b" " * 100 + b"\r\n") * 40_000) == b""


# --- RFC 8463 appendix A -------------------------------------------------------------------------------------------

RFC_8463_KEY = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
RFC_8463_MESSAGE = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    b"\r\n"
    b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
)
RFC_8463_FIELD = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b="
)
RFC_8463_SIGNATURE = b"/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="


def rfc_8463_key() -> SigningKey:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(RFC_8463_KEY)
    return SigningKey("football.example.com", "brisbane", Algorithm.ED25519_SHA256, der(private))


def test_the_signature_of_rfc_8463_is_reproduced() -> None:
    headers = scan(RFC_8463_MESSAGE)
    body_hash = hashlib.sha256(canonical_body(RFC_8463_MESSAGE[headers.body :])).digest()
    assert b"bh=" + base64.b64encode(body_hash) + b";" in RFC_8463_FIELD
    hashed = hashlib.sha256()
    for name in b"from to subject date message-id".split():
        hashed.update(canonical_field(name, headers.first(name) or b""))
    hashed.update(canonical_field(b"dkim-signature", RFC_8463_FIELD.partition(b":")[2])[:-2])
    assert base64.b64encode(rfc_8463_key().signature(hashed.digest())) == RFC_8463_SIGNATURE


def test_the_message_of_rfc_8463_verifies_with_its_own_and_with_our_signature() -> None:
    assert verify(RFC_8463_FIELD + RFC_8463_SIGNATURE + b"\r\n" + RFC_8463_MESSAGE, 0)
    ours = sign(RFC_8463_MESSAGE, None, [rfc_8463_key()], 1_528_637_909, None)
    assert b"bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;" in ours
    assert verify(ours + RFC_8463_MESSAGE, 0)


# --- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadKey:
    algorithm: Algorithm
    octets: bytes
    why: str


def _damaged_rsa() -> bytes:
    modulus = RSA_PRIVATE.public_key().public_numbers().n.to_bytes(256)
    return der(RSA_PRIVATE).replace(modulus, modulus[:-1] + bytes([modulus[-1] ^ 2]))


def _bad_keys() -> dict[str, BadKey]:
    small = der(rsa.generate_private_key(65537, 1024))[:-1]
    encrypted = ED25519_PRIVATE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    return {
        "empty": BadKey(Algorithm.RSA_SHA256, b"", "no unencrypted PKCS #8"),
        "cut off": BadKey(Algorithm.RSA_SHA256, small, "no unencrypted PKCS #8"),
        "encrypted": BadKey(Algorithm.ED25519_SHA256, encrypted, "no unencrypted PKCS #8"),
        "wrong algorithm": BadKey(Algorithm.ED25519_SHA256, der(RSA_PRIVATE), "not a key for ed25519-sha256"),
        "other wrong algorithm": BadKey(Algorithm.RSA_SHA256, der(ED25519_PRIVATE), "not a key for rsa-sha256"),
        "elliptic curve": BadKey(
            Algorithm.RSA_SHA256, der(ec.generate_private_key(ec.SECP256R1())), "not a key for rsa-sha256"
        ),
        "damaged": BadKey(Algorithm.RSA_SHA256, _damaged_rsa(), "damaged"),
    }


BAD_KEYS = _bad_keys()


@pytest.mark.parametrize("name", BAD_KEYS)
def test_unusable_keys_are_refused_by_name(name: str) -> None:
    bad = BAD_KEYS[name]
    with pytest.raises(SigningKeyError, match=f"the key s1 of demo.test .*{bad.why}"):
        SigningKey("demo.test", "s1", bad.algorithm, bad.octets)


@pytest.mark.parametrize(
    ("domain", "selector"),
    [
        ("Demo.test", "s1"),
        ("demo", "s1"),
        ("demo.test; x=1", "s1"),
        ("demo.test", "s 1"),
        ("demo.test", ""),
        ("demo.test", "s1;"),
    ],
)
def test_domain_and_selector_cannot_break_out_of_their_tags(domain: str, selector: str) -> None:
    with pytest.raises(SigningKeyError, match="no selector and domain"):
        SigningKey(domain, selector, Algorithm.ED25519_SHA256, der(ED25519_PRIVATE))


def test_a_key_shows_its_name_only() -> None:
    assert repr(ED25519_KEY) == "<SigningKey ed25519-sha256 e1._domainkey.demo.test>"
