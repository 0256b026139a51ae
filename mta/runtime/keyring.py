"""The file with the sealing keys of an installation: ``{home}/secrets/sealing.key``, the same on every machine.

``tracking.key`` beside it, whose keys sign links, has the same form; there "seals" is signs, and "opens" is believes.

One key per line, 64 hexadecimal digits. The first seals; the others, older ones, only open. A line that begins with
``next`` holds a key that is to seal after the next rotation: it opens already, so that a new key can be on every
machine before the first thing is sealed with it. A file with one key and nothing else is the usual case.

Each key has an id, four octets made from it, which sealed things begin with. ``KeyFile`` follows changes of the file.

Errors: ``OptionsError`` with a text for the operator. A changed file that cannot be used is logged and passed over: the
keys known before stay. Blocking, but short; any thread.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError

log = get_logger(__name__)

KEY_OCTETS = 32
ID_OCTETS = 4
MAX_KEYS = 16
"""Keys in a file: many more would be a mistake, and each is tried on what has no key id."""
_NEXT = "next"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys: ``sealing`` seals, all of them open. ``next`` is to seal after the next rotation."""

    sealing: bytes = field(repr=False)
    older: tuple[bytes, ...] = field(default=(), repr=False)
    next: bytes | None = field(default=None, repr=False)

    @property
    def by_id(self) -> Mapping[bytes, bytes]:
        """All keys by their ids, the likeliest first."""
        keys = (self.sealing, *self.older, *((self.next,) if self.next is not None else ()))
        return {key_id(key): key for key in keys}

    @property
    def oldest(self) -> bytes:
        """The key that is here longest."""
        return self.older[-1] if self.older else self.sealing

    def with_next(self) -> "KeyRing":
        """With a new key to seal later, unless there is one."""
        return KeyRing(self.sealing, self.older, self.next or secrets.token_bytes(KEY_OCTETS))

    def rotated(self) -> "KeyRing":
        """With the next key to seal, a new one if there is none."""
        return KeyRing(self.with_next().next or b"", (self.sealing, *self.older))

    def without_older(self) -> "KeyRing":
        """Without keys that only open, but for the next one."""
        return KeyRing(self.sealing, (), self.next)

    def render(self) -> str:
        """The file."""
        lines = [key.hex() for key in (self.sealing, *self.older)]
        if self.next is not None:
            lines.append(f"{_NEXT} {self.next.hex()}")
        return "\n".join(lines) + "\n"


def key_id(key: bytes) -> bytes:
    """The id of a key, which tells nothing about it."""
    return hmac.digest(key, b"barua sealing key id", hashlib.sha256)[:ID_OCTETS]


def parse(text: str, path: Path) -> KeyRing:
    """The keys in the text of a file. Raises OptionsError."""
    keys: list[bytes] = []
    following: bytes | None = None
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        key = _key(words[-1], path)
        if len(words) == 1:
            keys.append(key)
        elif words[0] == _NEXT and len(words) == 2 and following is None:
            following = key
        else:
            raise _unusable(path)
    if not keys or len(keys) > MAX_KEYS:
        raise _unusable(path)
    return KeyRing(keys[0], tuple(keys[1:]), following)


def read(path: Path) -> KeyRing:
    """The keys in a file that nobody else may read. Raises OptionsError."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text("ascii")
    except (OSError, ValueError) as error:
        raise OptionsError(f"{path} cannot be read: {error}; control makes it, share it with this machine") from error
    if mode & 0o077:
        raise OptionsError(f"{path} has mode {mode:04o}: others may read the keys; run chmod 600 on it")
    return parse(text, path)


def write(path: Path, ring: KeyRing) -> None:
    """Replace the file by one with these keys, at once and durably."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    owner = path.stat()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(ring.render())
            file.flush()
            if os.geteuid() == 0:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class KeyFile:
    """The keys in a file as they are now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _look(path)
        self._ring = read(path)

    def ring(self) -> KeyRing:
        """The keys; looks whether the file is another one, which costs microseconds."""
        now = _look(self._path)
        if now != self._seen:
            self._seen = now
            try:
                self._ring = read(self._path)
                log.info("sealing_keys_read", file=str(self._path), keys=len(self._ring.by_id))
            except OptionsError as error:
                log.error("sealing_keys_kept", reason=str(error))
        return self._ring

    def keys(self) -> Mapping[bytes, bytes]:
        """All keys by their ids."""
        return self.ring().by_id


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_mode


def _key(digits: str, path: Path) -> bytes:
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if len(key) != KEY_OCTETS:
        raise _unusable(path)
    return key


def _unusable(path: Path) -> OptionsError:
    return OptionsError(f"{path} does not hold sealing keys: each line must be {2 * KEY_OCTETS} hexadecimal digits")
