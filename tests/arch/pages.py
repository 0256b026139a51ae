"""The generated pages of ``mta/doc``: ``python -m tests.arch.pages`` writes them, ``--check`` compares.

``make docs`` and ``make check`` run it; a test compares too.
"""

import sys
from pathlib import Path

from mta.runtime import options
from tests.arch.source import ROOT

FOLDER = ROOT / "mta" / "doc"


def pages() -> dict[Path, str]:
    """What each page should hold."""
    return {FOLDER / "options.md": options.reference()}


def stale() -> list[str]:
    """Pages that are not as they should be."""
    return [
        str(path.relative_to(ROOT)) for path, text in pages().items() if not path.exists() or path.read_text() != text
    ]


def main(arguments: list[str]) -> int:
    """Write, or compare; the exit status."""
    if arguments == ["--check"]:
        for name in stale():
            print(f"{name} is not what the code says: run `make docs` and commit the result")
        return 1 if stale() else 0
    for path, text in pages().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
