"""DKIM keys: made, brought along, refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_der_public_key,
)

from control import dkimkeys
from control.dkimkeys import Algorithm
from mta.runtime.refusals import Refusal

RSA = rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


async def test_a_new_domain_gets_a_key_of_each_kind() -> None:
    first, second = await dkimkeys.generate()
    assert (first.algorithm, first.bits, second.algorithm, second.bits) == (Algorithm.RSA, 2048, Algorithm.ED25519, 0)
    assert first.selector.removesuffix("rsa") == second.selector.removesuffix("ed25519")
    public = load_der_public_key(first.public_key)
    assert public == load_der_private_key(first.private_key, None).public_key()
    assert len(second.public_key) == 32
    assert "private" not in repr(first)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
async def test_keys_in_either_form_are_taken(form: PrivateFormat) -> None:
    pair = await dkimkeys.from_pem(pem(RSA, form), "s1", allow_weak=False)
    assert (pair.selector, pair.algorithm, pair.bits, pair.imported) == ("s1", Algorithm.RSA, 2048, True)
    assert load_der_public_key(pair.public_key) == RSA.public_key()


async def test_an_ed25519_key_is_taken() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pair = await dkimkeys.from_pem(pem(key), "s1", allow_weak=False)
    assert (pair.algorithm, pair.public_key) == (Algorithm.ED25519, key.public_key().public_bytes_raw())


async def test_a_weak_key_is_taken_only_when_asked_for() -> None:
    weak = pem(rsa.generate_private_key(65537, 1024))
    with pytest.raises(Refusal, match="allow_weak"):
        await dkimkeys.from_pem(weak, "s1", allow_weak=False)
    assert (await dkimkeys.from_pem(weak, "s1", allow_weak=True)).bits == 1024


async def test_what_is_no_key_for_dkim_is_refused() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    locked = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    whole = pem(RSA)
    for content, said in (
        (b"", "must be a private key"),
        (b"x" * 20_000, "must be a private key"),
        (b"nonsense", "no private key in PEM"),
        (whole[:300], "no private key in PEM"),
        (whole[:400] + b"AAAA" + whole[404:], "damaged"),
        (locked, "encrypted"),
        (curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "RSA or Ed25519"),
    ):
        with pytest.raises(Refusal, match=said) as refused:
            await dkimkeys.from_pem(content, "s1", allow_weak=True)
        assert refused.value.field == "private_key_pem"


@pytest.mark.parametrize("selector", ["", "-a", "a-", "A", "a.b", "a b", "ä", "x" * 64, "a/b"])
def test_selectors_are_one_label(selector: str) -> None:
    with pytest.raises(Refusal):
        dkimkeys.checked_selector(selector)


def test_lengths_are_those_that_are_offered() -> None:
    assert dkimkeys.checked_bits(Algorithm.RSA, 0) == 2048
    assert dkimkeys.checked_bits(Algorithm.RSA, 4096) == 4096
    assert dkimkeys.checked_bits(Algorithm.ED25519, 0) == 0
    for algorithm, bits in (
        (Algorithm.RSA, 1024),
        (Algorithm.RSA, 2049),
        (Algorithm.RSA, -1),
        (Algorithm.ED25519, 2048),
    ):
        with pytest.raises(Refusal):
            dkimkeys.checked_bits(algorithm, bits)
