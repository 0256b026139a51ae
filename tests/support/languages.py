"""Running customers' programs in the languages they use: shell with curl, Python, Node, PHP, Go, Java.

``run`` gives a program's text to its interpreter, in a folder of its own, with the test's authority trusted for TLS.
An interpreter of the machine is used if there is one; what is missing comes unpacked from Debian's packages
(``tests.support.debian``), as do the mail libraries that the programs name.

Errors: ``ToolsMissing`` if a package cannot be had, AssertionError with the program's own words if it fails. Blocking.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import debian

SECONDS = 240
"""For one program: Java and Go compile first, on a machine that others use too."""
STORE_PASSWORD = "public"  # of a file of certificates; there is nothing secret in it
PHPMAILER = "usr/share/php/libphp-phpmailer/src"
JARS = ("javax.mail.jar", "javax.activation.jar")
PHP_EXTENSIONS = ("curl", "mbstring")


@dataclass(frozen=True, slots=True)
class Runner:
    """How a program of one language is run: the file it is put into, the command, the additions to the environment."""

    file_name: str
    command: Callable[[Path, Path], list[str]]
    """From the program's file and the file of trusted certificates."""
    environment: Callable[[Path], dict[str, str]] = lambda authority: {}


def run(language: str, program: str, folder: Path, authority: Path) -> str:
    """Run a program and give back what it printed. Raises AssertionError if it ends with an error."""
    runner = RUNNERS[language]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / runner.file_name
    file.write_text(program)
    command = runner.command(file, authority)
    environment = os.environ | {"HOME": str(folder)} | runner.environment(authority)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def php_mailer() -> str:
    """The lines that load PHPMailer, in the place of the one that loads what Composer has installed."""
    folder = debian.languages().root / PHPMAILER
    return " ".join(f"require_once '{folder / name}.php';" for name in ("Exception", "SMTP", "PHPMailer"))


def _shell(file: Path, authority: Path) -> list[str]:
    return ["sh", "-e", str(file)]


def _python(file: Path, authority: Path) -> list[str]:
    return [sys.executable, str(file)]


def _node(file: Path, authority: Path) -> list[str]:
    return [shutil.which("node") or str(debian.node().program("node")), str(file)]


def _node_environment(authority: Path) -> dict[str, str]:
    tree = debian.node()
    libraries = {} if shutil.which("node") else {"LD_LIBRARY_PATH": tree.library_path}
    return {"NODE_EXTRA_CA_CERTS": str(authority), "NODE_PATH": str(tree.root / "usr/share/nodejs")} | libraries


def _php(file: Path, authority: Path) -> list[str]:
    tree = debian.languages()
    extensions = next((tree.root / "usr/lib/php").glob("20*"))
    load = [f"extension={extensions / name}.so" for name in PHP_EXTENSIONS]
    settings = [*load, f"curl.cainfo={authority}", f"openssl.cafile={authority}"]
    options = [option for setting in settings for option in ("-d", setting)]
    return [str(tree.program("php8.2")), "-n", *options, str(file)]


def _php_environment(authority: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": debian.languages().library_path}


def _go(file: Path, authority: Path) -> list[str]:
    return [shutil.which("go") or str(debian.languages().root / "usr/lib/go-1.19/bin/go"), "run", str(file)]


def _go_environment(authority: Path) -> dict[str, str]:
    own_root = {} if shutil.which("go") else {"GOROOT": str(debian.languages().root / "usr/lib/go-1.19")}
    # Compiled once for all programs: the standard library takes longer than they do.
    cache = {"GOCACHE": str(debian.OPT / "go-cache"), "GO111MODULE": "off", "CGO_ENABLED": "0"}
    return {"SSL_CERT_FILE": str(authority)} | cache | own_root


def _java(file: Path, authority: Path) -> list[str]:
    tree = debian.languages()
    jars = ":".join(str(tree.root / "usr/share/java" / name) for name in JARS)
    home = Path(shutil.which("javac") or tree.root / "usr/lib/jvm/java-17-openjdk-amd64/bin/javac").parent
    store = authority.with_suffix(".jks")
    if not store.exists():
        subprocess.run(
            [str(home / "keytool"), "-importcert", "-noprompt", "-alias", "test", "-file", str(authority),
             "-keystore", str(store), "-storepass", STORE_PASSWORD],
            capture_output=True, timeout=SECONDS, check=True,
        )  # fmt: skip
    trust = [f"-Djavax.net.ssl.trustStore={store}", f"-Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}"]
    return [str(home / "java"), *trust, "-cp", jars, str(file)]


RUNNERS = {
    "sh": Runner("program.sh", _shell, lambda authority: {"CURL_CA_BUNDLE": str(authority)}),
    "py": Runner("program.py", _python, lambda authority: {"SSL_CERT_FILE": str(authority)}),
    "js": Runner("program.js", _node, _node_environment),
    "mjs": Runner("program.mjs", _node, _node_environment),
    "php": Runner("program.php", _php, _php_environment),
    "go": Runner("program.go", _go, _go_environment),
    "java": Runner("Program.java", _java),
}
"""By the ending of the file that a sample is kept in."""
