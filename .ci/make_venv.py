"""Make a virtual environment with pip, on a Debian whose python3 comes without ensurepip too.

``python3 .ci/make_venv.py FOLDER`` tries, in this order: the ``venv`` module as it is meant to be used; a pip that is
installed beside the interpreter; Debian's own pip wheel (package python3-pip-whl), unpacked into FOLDER without root.
An environment that works is left alone.

Standard library only: it runs before anything is installed. Ends with status 1 and says what to install if nothing
works.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

NEEDED = (3, 11)
HELP = "cannot make a virtual environment: run `apt-get install python3-venv` as root, then try again"


def main(folder: Path) -> int:
    """Make the environment; the exit status."""
    if sys.version_info < NEEDED:
        print(f"Python {sys.version.split()[0]} is too old: 3.11 or later is needed", file=sys.stderr)
        return 1
    python = folder / "bin" / "python"
    if _has_pip(python):
        return 0
    if importlib.util.find_spec("ensurepip") is not None:
        venv.create(folder, clear=folder.exists(), with_pip=True)
    else:
        venv.create(folder, clear=folder.exists(), with_pip=False)
        _add_pip(folder, python)
    if _has_pip(python):
        return 0
    print(HELP, file=sys.stderr)
    return 1


def _has_pip(python: Path) -> bool:
    return python.exists() and _succeeds([str(python), "-m", "pip", "--version"])


def _add_pip(folder: Path, python: Path) -> None:
    if _succeeds([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "pip"]):
        return
    wheel = _debian_wheel(folder)
    if wheel is not None:
        # A wheel is a zip file that Python can run from: pip installs itself.
        _succeeds([str(python), f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)], show=True)


def _debian_wheel(folder: Path) -> Path | None:
    """Debian's pip wheel, unpacked below ``folder``; None if it cannot be had."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    target = folder / "opt" / "pip"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for part in ("lists/partial", "cache/archives/partial"):
            (work / part).mkdir(parents=True)
        lists = ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"]
        # As root, apt would read these folders as its own user, which may not enter them.
        lists += ["-o", "APT::Sandbox::User=root"] if os.getuid() == 0 else []
        download = ["-q", "download", "python3-pip-whl"]
        if not _succeeds(["apt-get", *download], work):
            if not _succeeds(["apt-get", *lists, "-q", "update"], work, show=True):
                return None
            if not _succeeds(["apt-get", *lists, *download], work, show=True):
                return None
        target.mkdir(parents=True, exist_ok=True)
        for package in work.glob("*.deb"):
            _succeeds(["dpkg-deb", "-x", str(package), str(target)], show=True)
    return next(target.rglob("pip-*.whl"), None)


def _succeeds(command: list[str], folder: Path | None = None, *, show: bool = False) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        if show:
            print(f"{command[0]}: {error}", file=sys.stderr)
        return False
    if show and done.returncode != 0:
        print(done.stderr.strip(), file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve()))
