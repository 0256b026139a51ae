"""DKIM signatures of received messages, verified by dkimpy with the keys that control would have published in the DNS.

``verify(content, records)`` is pure: one result per DKIM-Signature field, in the order of the message, with domain,
selector, algorithm and "pass" or "fail" (with the reason as ``detail``). ``Keys`` fetches the records from control,
keeps them, and fetches again at most every ``REFRESH_SECONDS`` when a message names a key it does not have.

Limits: a message is verified once; a signature whose key control does not have then stays "fail". dkimpy needs PyNaCl
for Ed25519. Verifying takes some milliseconds: not for an event loop.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping

import dkim

from barua_client import Unreachable
from mta.runtime.log import get_logger
from mta.runtime.refusals import Refusal

REFRESH_SECONDS = 1.0
MAX_SIGNATURES = 10
"""Signatures verified of one message; more are a way to burn our time."""

_TAG = re.compile(rb"(?:^|;)\s*([a-z]+)\s*=\s*([^;]*)")

log = get_logger(__name__)


class Keys:
    """The records of control's sender domains."""

    def __init__(self, fetch: Callable[[], Awaitable[dict[str, str]]]) -> None:
        self._fetch = fetch
        self._records: dict[str, str] = {}
        self._fetched = float("-inf")

    async def for_message(self, content: bytes) -> Mapping[str, str] | None:
        """Records with the keys of a message as far as control has them; None: control did not answer, try later."""
        owners = {owner(signature) for signature in signatures(content)}
        if owners <= self._records.keys() or time.monotonic() - self._fetched < REFRESH_SECONDS:
            return self._records
        try:
            self._records = await self._fetch()
        except (Refusal, Unreachable) as error:
            log.info("keys_not_fetched", reason=str(error))
            return None
        self._fetched = time.monotonic()
        return self._records


def verify(content: bytes, records: Mapping[str, str]) -> list[dict[str, str]]:
    """One result per DKIM-Signature field."""

    def lookup(name: bytes, timeout: int = 5) -> bytes | None:
        found = records.get(name.decode("ascii", "replace").rstrip(".").lower())
        return None if found is None else found.encode()

    # dkimpy changes the list of fields while it works: each signature gets a verifier of its own.
    found = signatures(content)[:MAX_SIGNATURES]
    return [_result(content, index, tags, lookup) for index, tags in enumerate(found)]


def signatures(content: bytes) -> list[dict[str, str]]:
    """The tags of each DKIM-Signature field of a message."""
    header = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[0]
    unfolded = re.sub(rb"\r?\n(?=[ \t])", b"", header)
    fields = [line.split(b":", 1) for line in unfolded.splitlines() if b":" in line]
    return [
        {key.decode(): b"".join(value.split()).decode("utf-8", "replace") for key, value in _TAG.findall(body)}
        for name, body in fields
        if name.strip().lower() == b"dkim-signature"
    ]


def owner(tags: Mapping[str, str]) -> str:
    """Where the key of a signature is published."""
    return f"{tags.get('s', '')}._domainkey.{tags.get('d', '')}".lower()


def _result(
    content: bytes, index: int, tags: Mapping[str, str], lookup: Callable[[bytes, int], bytes | None]
) -> dict[str, str]:
    result = {
        "domain": tags.get("d", ""),
        "selector": tags.get("s", ""),
        "algorithm": tags.get("a", ""),
    }
    try:
        good = dkim.DKIM(content).verify(idx=index, dnsfunc=lookup)
        detail = "" if good else "the signature does not match the message"
    except Exception as error:  # a hostile message may break dkimpy in any way; that is a "fail" too
        good, detail = False, str(error) or type(error).__name__
    return {**result, "result": "pass"} if good else {**result, "result": "fail", "detail": detail[:200]}
