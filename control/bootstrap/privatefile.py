"""Files that only their owner may read, written whole or not at all.

``write_private`` writes to a new file beside the target, flushes it to disk, and renames: a reader or a crash sees the
old content or the new, never half of it. Errors: OSError as it comes. Blocks for the time of one flush.
"""

import os
import secrets
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, mode 0600; its folder is made, mode 0700, if it is not there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
