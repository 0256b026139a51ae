"""Folders in memory, for PostgreSQL's data.

A flush costs nothing there; and they are not below pytest's folder, which every session of pytest that starts meanwhile
closes to the server's user. Any thread.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")


def new_folder() -> Path:
    """A folder of the caller's own, in the usual place for temporary ones where there is none in memory."""
    return Path(tempfile.mkdtemp(prefix="barua-test-", dir=MEMORY if MEMORY.is_dir() else None))


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the length of a block."""
    made = new_folder()
    try:
        yield made
    finally:
        shutil.rmtree(made)
