"""DKIM: every message that is accepted carries signatures that an independent verifier accepts."""

import base64
import re
from collections.abc import Callable

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from mta.mailauth.dkim import SIGNED, Algorithm, SigningKey, canonical_body, canonical_field, sign
from mta.message.address import parse_path
from mta.message.headers import Headers, prepare, scan

NOW = 1_763_763_540
Verify = Callable[[bytes, int], bool]

texts = st.text(
    st.sampled_from("ab \t:;=<>@")
    | st.characters(min_codepoint=33, max_codepoint=126)
    | st.characters(min_codepoint=160),
    max_size=60,
).filter(lambda text: not re.search("[\ud800-\udfff]", text))
folds = st.sampled_from(["\r\n x", "\r\n\tx", " \r\n  x", "  ", "\t", ""])
values = st.lists(st.tuples(texts, folds).map("".join), max_size=3).map("".join)
names = st.sampled_from(
    [
        "To",
        "CC",
        "Subject",
        "Date",
        "Message-ID",
        "reply-to",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
)
repeatable = st.sampled_from(["List-Id", "LIST-UNSUBSCRIBE", "X-Other", "Received", "DKIM-Other"])
line_pieces = st.sampled_from([b" ", b"\t", b"  ", b"a", b"word", b"\xc3\xa9", b".", b"\r\n", b"\r\n", b"\r\n\r\n"])
bodies = st.lists(line_pieces, max_size=40).map(b"".join)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    fields = [(name, draw(values)) for name in draw(st.lists(names, unique=True))]
    fields += [(name, draw(values)) for name in draw(st.lists(repeatable, max_size=4))]
    if draw(st.booleans()):
        fields.append(("From", "a@demo.test"))
    fields = draw(st.permutations(fields))
    header = "".join(f"{name}:{value}\r\n" for name, value in fields)
    return header.encode() + b"\r\n" + draw(bodies)


@pytest.fixture(scope="module")
def keys() -> tuple[rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey]:
    return rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def signing(keys: tuple[rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey]) -> list[SigningKey]:
    octets = [key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) for key in keys]
    return [
        SigningKey("demo.test", "r1", Algorithm.RSA_SHA256, octets[0]),
        SigningKey("demo.test", "e1", Algorithm.ED25519_SHA256, octets[1]),
    ]


@pytest.fixture(scope="module")
def verify(keys: tuple[rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey]) -> Verify:
    rsa_der = keys[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    raw = keys[1].public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    published = {
        b"r1._domainkey.demo.test.": b"v=DKIM1; k=rsa; p=" + base64.b64encode(rsa_der),
        b"e1._domainkey.demo.test.": b"v=DKIM1; k=ed25519; p=" + base64.b64encode(raw),
    }

    def look_up(name: bytes, timeout: int = 5) -> bytes | None:
        return published.get(name)

    def check(message: bytes, index: int) -> bool:
        try:
            return bool(dkim.DKIM(message).verify(index, dnsfunc=look_up))
        except dkim.DKIMException:
            return False

    return check


def stored(content: bytes) -> Headers:
    return prepare(
        scan(content),
        received=b"Received: by mx.test; now\r\n",
        date="Fri, 21 Nov 2025 22:19:00 +0000",
        message_id="<id@demo.test>",
        sender=parse_path("sender@demo.test"),
        sender_name="",
    )


def as_sent(message: bytes) -> bytes:
    """SMTP ends the last line."""
    return message if message.endswith(b"\r\n") else message + b"\r\n"


@settings(deadline=None)
@given(content=messages())
def test_every_accepted_message_verifies(content: bytes, signing: list[SigningKey], verify: Verify) -> None:
    headers = stored(content)
    message = as_sent(sign(headers.content, headers, signing, NOW, None) + headers.content)
    assert verify(message, 0)
    assert verify(message, 1)


@settings(deadline=None, max_examples=30)
@given(content=messages(), name=st.sampled_from(SIGNED), below=st.booleans())
def test_a_field_that_is_added_never_verifies(
    content: bytes, name: bytes, below: bool, signing: list[SigningKey], verify: Verify
) -> None:
    headers = stored(content)
    fields = sign(headers.content, headers, signing, NOW, None)
    added = name + b": added\r\n"
    end = headers.end if below else 0
    message = as_sent(fields + headers.content[:end] + added + headers.content[end:])
    assert not verify(message, 0)
    assert not verify(message, 1)


@given(content=messages())
def test_scanned_beforehand_or_not_is_the_same(content: bytes, signing: list[SigningKey]) -> None:
    assert sign(content, scan(content), signing[1:], NOW, 60) == sign(content, None, signing[1:], NOW, 60)


@given(body=bodies)
def test_canonical_bodies_are_those_of_dkimpy(body: bytes) -> None:
    assert canonical_body(as_sent(body)) == Relaxed.canonicalize_body(as_sent(body))
    assert canonical_body(canonical_body(body)) == canonical_body(body)


@given(name=names, value=values)
def test_canonical_fields_are_those_of_dkimpy(name: str, value: str) -> None:
    lower = name.lower().encode()
    octets = value.encode() + b"\r\n"
    ((_, theirs),) = Relaxed.canonicalize_headers([(name.encode(), octets)])
    assert canonical_field(lower, octets) == lower + b":" + theirs
