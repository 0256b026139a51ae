"""Who imports whom: the contracts of pyproject.toml, and the allow-list of the pure level."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arch.source import ROOT, modules

# The standard library without input, output, clock and chance.
PURE_STANDARD_LIBRARY = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "collections.abc", "contextlib", "copy",
    "dataclasses", "datetime", "email", "email.errors", "email.header", "email.headerregistry", "email.message",
    "email.parser", "email.policy", "email.quoprimime", "email.utils", "encodings.idna", "enum", "fractions",
    "functools", "hashlib", "heapq", "hmac", "html", "io", "ipaddress", "itertools", "json", "math", "operator",
    "quopri", "re", "string", "struct", "textwrap", "types", "typing", "unicodedata", "urllib.parse", "uuid", "zlib",
}  # fmt: skip
PURE = {
    "mta/smtp": (),
    "mta/message": ("idna",),
    "mta/mailauth": ("cryptography",),
    "mta/policy": (),
}
# Pure modules take the time as an argument.
CLOCKS = (".now(", ".utcnow(", ".today(", "uuid1(", "uuid4(", "fromtimestamp(")


@pytest.mark.parametrize("folder", PURE)
def test_the_pure_level_imports_only_what_is_pure(folder: str) -> None:
    own = (folder.replace("/", "."), "mta.message")
    wrong = [
        f"{module.name}:{line} {name}"
        for module in modules(folder)
        for name, line in module.imports()
        if name not in PURE_STANDARD_LIBRARY and not name.startswith((*own, *PURE[folder]))
    ]
    assert modules(folder), f"{folder} has no modules"
    assert wrong == []


@pytest.mark.parametrize("folder", PURE)
def test_the_pure_level_reads_no_clock_and_draws_no_chance(folder: str) -> None:
    wrong = [
        f"{module.name}: {call}"
        for module in modules(folder)
        for call in CLOCKS
        if call in module.text and not (call == "fromtimestamp(" and "tz=" in module.text)
    ]
    assert wrong == []


def test_the_contracts_hold() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "protos" / "gen")}
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
