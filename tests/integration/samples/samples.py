"""The samples of the documentations, as they are printed there, and what has to be changed in them to run here.

A sample is a file below ``sources``, named after what it does and its language. Changed are the host, the port, the
credentials, the name of a sub-user (which is unique here) and what ``REPAIRS`` lists: mistakes of the samples
themselves, and the lines around a sample that only defines a function or leaves variables to the reader. The
documentations lost the indentation of their Python samples; it is restored in the files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.support.languages import php_mailer

SOURCES = Path(__file__).parent / "sources"
QUICK = frozenset({"sh", "py", "js", "mjs"})
"""Languages of `make test`; the others are in the long suite."""

REPAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    # The port is that of the SMTP relay, the host name has a path in it, and a comma is missing.
    "mspace/send.js": (
        ("hostname: 'bulkemail.mspace.co.ke/email'\nport: 2525,", "hostname: 'bulkemail.mspace.co.ke',"),
    ),
    # These define a function and do not call it.
    "mspace/smtp.js": (("html: '<b>Hello world?</b>'\n});\n}", "html: '<b>Hello world?</b>'\n});\n}\nsendMail();"),),
    "mspace/smtp.py": (
        ("server.send_message(msg)\n", 'server.send_message(msg)\n\nsend_email("RECIPIENT", "Body", "Hello")\n'),
    ),
    # Variables are the reader's, and so is how the class is loaded.
    "mspace/smtp.php": (
        ("<?php\n", "<?php\nPHPMAILER\n"),
        ("$mail = new", "$recipient = 'RECIPIENT'; $subject = 'Hello'; $body = 'Body';\n$mail = new"),
    ),
    "sendpost/smtp.php": (("require 'vendor/autoload.php';", "PHPMAILER"),),
}


def names(folder: str, *, quick: bool) -> list[str]:
    """The samples of a documentation, such as ``mspace/send.py``, in the languages of `make test` or in the others."""
    paths = sorted((SOURCES / folder).glob("*.txt"))
    return [f"{folder}/{path.stem}" for path in paths if (language(path.stem) in QUICK) is quick]


def language(name: str) -> str:
    """What a sample is written in."""
    return name.rpartition(".")[2]


def program(name: str, changes: Mapping[str, str]) -> str:
    """The text of a sample with its repairs, and with ``changes`` of host, port and credentials that must occur."""
    text = (SOURCES / f"{name}.txt").read_text()
    for old, new in REPAIRS.get(name, ()):
        assert old in text, f"{name}: the repair of {old!r} has nothing to do"
        text = text.replace(old, new)
    if "PHPMAILER" in text:
        text = text.replace("PHPMAILER\n", f"{php_mailer()}\n")
    # All at once: what was put in for one, such as a port or a name made at random, may look like another.
    written = sorted(changes, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, written)), lambda found: changes[found[0]], text) if written else text
