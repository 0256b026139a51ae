"""The same place for the same key, from whoever knows the same places: rendezvous hashing.

What remembers a request's idempotency key is one worker's spool, so a request with a key has to go to the same worker
again. Bridges and nodes choose it from the key and the workers' names, without asking each other; where one worker is
added, only the keys move that are its own now. Pure.
"""

import hashlib
from collections.abc import Sequence


def place_of(key: str, places: Sequence[str]) -> int:
    """Which of the places a key belongs to."""
    return max(range(len(places)), key=lambda index: _weight(key, places[index]))


def _weight(key: str, place: str) -> bytes:
    return hashlib.sha256(f"{place}\0{key}".encode()).digest()
