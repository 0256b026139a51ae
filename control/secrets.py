"""Secrets of an installation that nobody has to invent: files of random bytes in hexadecimal, made at first use.

``ensure`` makes such a file (mode 0600, in a folder of mode 0700) or reads the one that is there. Two processes that
come at the same time get the same secret: the file appears whole, under its name, once.

Errors: ``OptionsError`` with a text for the operator if a file is there but is no secret of that size, or unreadable.
"""

import os
import secrets
from pathlib import Path

from mta.runtime.options import OptionsError


def ensure(path: Path, nbytes: int) -> str:
    """The secret in ``path``, as ``2 * nbytes`` hexadecimal digits; made if it is not there."""
    make(path, nbytes)
    return read(path, nbytes)


def make(path: Path, nbytes: int) -> None:
    """Make a secret in ``path`` if nothing is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _create(path, secrets.token_hex(nbytes))


def read(path: Path, nbytes: int) -> str:
    """The secret in ``path``. Raises OptionsError."""
    try:
        text = path.read_text(encoding="ascii").strip()
        size = len(bytes.fromhex(text))
    except OSError as error:
        raise OptionsError(f"cannot read the secret {path}: {error.strerror}") from error
    except ValueError as error:
        raise OptionsError(f"{path} is not a secret: it must hold {2 * nbytes} hexadecimal digits") from error
    if size != nbytes:
        raise OptionsError(f"{path} is not a secret: it must hold {2 * nbytes} hexadecimal digits")
    return text


def _create(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails if another process was first, and then theirs counts; a rename would replace it.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
