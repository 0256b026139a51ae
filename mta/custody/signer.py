"""DKIM signing with the keys of the policy: opens each sealed key once and keeps it.

When a domain asks for signatures and its keys cannot be opened, the message is refused for now: it is never sent
unsigned.
"""

from collections.abc import Callable, Mapping

from mta.mailauth.dkim import Algorithm, SigningKey, SigningKeyError, sign
from mta.mailauth.sealing import SealError, open_sealed
from mta.message.headers import Headers
from mta.policy.records import SealedKey, SenderDomain
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

EXPIRES_SECONDS = 7 * 86_400
"""Longest time in a queue plus a margin: an older copy is a replay."""
MAX_KEYS = 10_000
"""Opened keys kept."""


class Signer:
    """Signs messages of sender domains. ``keys`` gives the sealing keys by their ids, as they are now."""

    def __init__(self, keys: Callable[[], Mapping[bytes, bytes]]) -> None:
        self._keys = keys
        self._opened: dict[bytes, SigningKey] = {}

    def signatures(self, domain: SenderDomain, headers: Headers, now: int) -> bytes:
        """DKIM-Signature fields for a message from this domain, ``now`` in Unix seconds. Raises Refusal."""
        if domain.signing_off:
            return b""
        keys = [self._open(domain, sealed) for sealed in domain.keys]
        if not keys:
            raise self._refuse(domain, "no keys")
        return sign(headers.content, headers, keys, now, EXPIRES_SECONDS)

    def _open(self, domain: SenderDomain, sealed: SealedKey) -> SigningKey:
        key = self._opened.get(sealed.sealed_private_key)
        if key is not None:
            return key
        try:
            der = open_sealed(self._keys(), sealed.sealed_private_key, domain.tenant_id, domain.domain, sealed.selector)
            key = SigningKey(domain.domain, sealed.selector, Algorithm(sealed.algorithm.value), der)
        except (SealError, SigningKeyError) as error:
            raise self._refuse(domain, str(error)) from error
        if len(self._opened) >= MAX_KEYS:
            self._opened.clear()
        self._opened[sealed.sealed_private_key] = key
        return key

    def _refuse(self, domain: SenderDomain, why: str) -> Refusal:
        log.error("cannot_sign", domain=domain.domain, error=why)
        return Refusal(Reason.NOT_STORED, f"messages from {domain.domain} cannot be signed now; try again later")
