"""Debian packages unpacked into a folder, not installed: Postfix and OpenDKIM as independent peers, PostgreSQL 15, and
what programs of customers are written in.

``tools()``, ``postgresql()``, ``node()`` and ``languages()`` return an unpacked tree, fetching it first if need be.
Nothing outside ``.venv/opt`` is touched and root is not needed: the package lists are fetched into the same folder when
the system has none. A tree holds the packages asked for and those of their dependencies that are not installed already,
so its programs run with ``Tools.environment``.

Run as ``python -m tests.support.debian`` to fetch and to print the versions; ``make tools`` does that.

Errors: ``ToolsMissing`` with a text that says what failed and how to mend it. Blocking; not for an event loop.
Limits: Debian and its relatives only; the peers' version is the one of the Debian release.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OPT = Path(__file__).resolve().parents[2] / ".venv" / "opt"
FOLDER = OPT / "debian"
PACKAGES = ("postfix", "opendkim", "opendkim-tools")
POSTGRESQL_FOLDER = OPT / "postgresql-15"
POSTGRESQL_PACKAGES = ("postgresql-15", "libpq5")
NODE_FOLDER = OPT / "node"
NODE_PACKAGES = ("node-nodemailer",)
LANGUAGES_FOLDER = OPT / "languages"
LANGUAGES_PACKAGES = ("php8.2-cli", "php8.2-curl", "php8.2-mbstring", "libphp-phpmailer", "libmail-java")
COMPILERS = {"go": "golang-1.19-go", "javac": "openjdk-17-jdk-headless"}
"""What is large, and fetched only if the machine has no such command."""
# Installation scripts never run, so what only they need stays out, and so does what compiles queries (jit is off).
UNWANTED = frozenset({
    "cpio", "dns-root-data", "ssl-cert", "postgresql-common", "postgresql-client-common", "postgresql-client-15",
    "libllvm14", "libcommon-sense-perl", "libjson-perl", "libjson-xs-perl", "libtypes-serialiser-perl", "sysstat",
})  # fmt: skip
FETCH_SECONDS = 600


class ToolsMissing(Exception):
    """The packages cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Tools:
    """An unpacked tree of packages."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which programs of the tree find the tree's libraries."""
        return os.environ | {"LD_LIBRARY_PATH": self.library_path}

    @property
    def library_path(self) -> str:
        """Folders of the tree's shared libraries, colon between."""
        library = self.root / "usr" / "lib"
        folders = [library / "postfix", *sorted(library.glob("*-linux-gnu")), library]
        return ":".join(str(folder) for folder in folders if folder.is_dir())

    def program(self, name: str) -> Path:
        """Path of a program of the tree. Raises ToolsMissing."""
        for folder in ("usr/sbin", "usr/bin", "usr/lib/postfix/sbin", "usr/lib/postgresql/15/bin"):
            path = self.root / folder / name
            if path.is_file():
                return path
        raise ToolsMissing(f"{name} is not among the unpacked packages; remove {self.root} and run make tools")


def tools() -> Tools:
    """The unpacked mail servers, fetched if they are not there yet. Raises ToolsMissing."""
    return _unpacked(FOLDER, PACKAGES)


def postgresql() -> Tools:
    """The unpacked PostgreSQL 15, fetched if it is not there yet. Raises ToolsMissing."""
    return _unpacked(POSTGRESQL_FOLDER, POSTGRESQL_PACKAGES)


def node() -> Tools:
    """Nodemailer, and Node if the machine has none, fetched if they are not there yet. Raises ToolsMissing."""
    return _unpacked(NODE_FOLDER, NODE_PACKAGES)


def languages() -> Tools:
    """PHP, Go, Java and their mail libraries, fetched if they are not there yet. Raises ToolsMissing."""
    compilers = [package for command, package in COMPILERS.items() if shutil.which(command) is None]
    return _unpacked(LANGUAGES_FOLDER, (*LANGUAGES_PACKAGES, *compilers))


def _unpacked(folder: Path, wanted: Sequence[str]) -> Tools:
    stamp, content = folder / "complete", " ".join(wanted)
    if not _is_complete(stamp, content):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / "lock"):
            if not _is_complete(stamp, content):
                _fetch(folder, wanted)
                stamp.write_text(content)
    return Tools(folder / "root")


def _is_complete(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, wanted: Sequence[str]) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ToolsMissing(f"apt-get and dpkg-deb are needed to fetch {wanted[0]}, which the tests use as a server")
    packages, root = folder / "packages", folder / "root"
    for path in (packages, root):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    try:
        _download(packages, wanted, [])
    except ToolsMissing:
        # No package lists yet, or stale ones: fetch lists of our own, which needs no root.
        own = _private_lists(folder / "apt")
        _run(["apt-get", *own, "update"], folder)
        _download(packages, wanted, own)
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)], folder)
    shutil.rmtree(packages)


def _private_lists(folder: Path) -> list[str]:
    """Options that make apt-get keep lists and cache in ``folder``."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]


def _download(packages: Path, wanted: Sequence[str], options: list[str]) -> None:
    simulated = _run(["apt-get", *options, "-s", "--no-install-recommends", "install", *wanted], packages)
    missing = {line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")}
    # An installed peer is fetched as well: the tests run their own, with configuration of their own.
    names = sorted((missing | set(wanted)) - UNWANTED)
    _run(["apt-get", *options, "-q", "download", *names], packages)


def _run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ToolsMissing(f"{' '.join(command)}: no end after {FETCH_SECONDS} s") from error
    if done.returncode != 0:
        raise ToolsMissing(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> int:
    """Fetch the packages and print where they are."""
    try:
        mail, database = tools(), postgresql()
        node()
        postfix = _said(mail, "postconf", "-dh", "mail_version")
        postgres = _said(database, "postgres", "--version").split()[2]
    except (ToolsMissing, subprocess.CalledProcessError) as error:
        print(f"tools: {error}", file=sys.stderr)
        return 1
    print(f"Postfix {postfix} and OpenDKIM unpacked in {mail.root}, PostgreSQL {postgres} in {database.root}")
    return 0


def _said(tree: Tools, program: str, *arguments: str) -> str:
    command = [str(tree.program(program)), *arguments]
    done = subprocess.run(command, env=tree.environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
