"""The demo's certificate authority: clients that verify certificates can be told to trust it.

``ensure(folder)`` makes ``ca.pem``, ``server.pem`` (certificate and chain) and ``server.key``, or keeps them while they
are good: matching each other, naming all of ``NAMES``, and valid for another ``RENEW_DAYS``. The authority outlives its
server certificates, so clients that trust ``ca.pem`` go on doing so after a renewal. Its own key is kept beside it
(``ca.key``, 0600) and, by name constraints, cannot vouch for anything but localhost.

Extensions follow RFC 5280 §4.2: verifiers as strict as Go's and Java's accept them. ECDSA P-256, which every TLS stack
in use has. Errors: OSError as it comes. Blocks for a few milliseconds.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.bootstrap.privatefile import write_private

NAMES = ("localhost",)
ADDRESSES = ("127.0.0.1", "::1")
AUTHORITY_DAYS = 3650
SERVER_DAYS = 365
"""Some verifiers refuse server certificates of more than 398 days."""
RENEW_DAYS = 30
BACKDATE = datetime.timedelta(hours=1)
"""Clocks of containers on one machine can differ a little."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the certificates are."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure(folder: Path, now: datetime.datetime | None = None) -> Files:
    """Make or renew what is missing or near its end; return where it is."""
    now = now or datetime.datetime.now(datetime.UTC)
    files = Files(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority = _load(files.authority, folder / "ca.key")
    if authority is None or not _lasts(authority.certificate, now):
        authority = _make_authority(now)
        _save(authority, files.authority, folder / "ca.key")
    server = _load(files.certificate, files.key)
    if server is None or not _lasts(server.certificate, now) or not _issued_by(server.certificate, authority):
        server = _make_server(authority, now)
        _save(server, files.certificate, files.key, [authority.certificate])
    files.authority.chmod(0o644)
    return files


def _make_authority(now: datetime.datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Barua demo"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Barua demo authority (this machine only)"),
        ]
    )
    permitted: list[x509.GeneralName] = [
        *(x509.DNSName(host) for host in NAMES),
        *(x509.IPAddress(ip_network(address)) for address in ADDRESSES),
    ]
    builder = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
    )
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _make_server(authority: _Pair, now: datetime.datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAMES[0])])
    alternatives: list[x509.GeneralName] = [
        *(x509.DNSName(host) for host in NAMES),
        *(x509.IPAddress(ip_address(address)) for address in ADDRESSES),
    ]
    issuer_key = authority.key.public_key()
    builder = (
        _builder(name, authority.certificate.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    return _Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(certificate: Path, key: Path) -> _Pair | None:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or loaded.public_key() != private.public_key():
        return None
    return _Pair(loaded, private)


def _save(pair: _Pair, certificate: Path, key: Path, chain: Sequence[x509.Certificate] = ()) -> None:
    private = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(key, private)
    pem = b"".join(item.public_bytes(serialization.Encoding.PEM) for item in (pair.certificate, *chain))
    write_private(certificate, pem)


def _lasts(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    end = now + datetime.timedelta(days=RENEW_DAYS)
    return certificate.not_valid_before_utc <= now and certificate.not_valid_after_utc > end


def _issued_by(certificate: x509.Certificate, authority: _Pair) -> bool:
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    have = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    return have >= {*NAMES, *ADDRESSES}
