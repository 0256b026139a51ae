"""Logs of a real process: one line of JSON per event, whatever is in it and wherever it goes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
BEGIN = """
import logging
from mta.runtime.log import configure, get_logger
configure('tester', 'info')
log = get_logger('area')
"""


def run(code: str, stderr: int | None = None) -> tuple[list[dict[str, Any]], str]:
    """The log lines and the output of a program."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if stderr is None else stderr,
        timeout=60,
        check=False,
    )
    lines = (done.stderr or b"").split(b"\n")
    assert lines.pop() == b""
    return [json.loads(line) for line in lines], done.stdout.decode()


NASTY = "a\\r\\nb\\x1b[31m\\x00\\x7f\\x9b31m\\u2028\\u202e\\ud800 ü"


def test_lines_are_json_and_complete() -> None:
    lines, _ = run(
        "log.info('message_received', id=7, size=1.5, tenant='acme', none=None)\n"
        "log.debug('not_written')\n"
        f"log.warning('said', reply='{NASTY}')\n"
        "log.error('cut', value='x' * 5000)\n"
        "log.info('odd', data=b'\\xff', path=__import__('pathlib').Path('/x'), table={'a': [1, {2, 3}]})\n"
        "logging.getLogger('library').warning('from %s', 'elsewhere')\n"
        "logging.getLogger('library').info('not written')\n"
    )
    first, said, cut, odd, library = lines
    assert {key: first[key] for key in ("event", "id", "size", "tenant", "none", "level", "program", "module")} == {
        "event": "message_received",
        "id": 7,
        "size": 1.5,
        "tenant": "acme",
        "none": None,
        "level": "info",
        "program": "tester",
        "module": "area",
    }
    assert first["time"].endswith("Z")
    assert said["reply"].startswith("a\r\nb\x1b[31m\x00\x7f\x9b31m\u2028\u202e")
    assert len(cut["value"]) == 1001
    assert odd["path"] == "/x"
    assert library["text"] == "from elsewhere"
    assert library["level"] == "warning"


def test_no_line_holds_what_a_terminal_obeys() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            BEGIN + f"log.info('said', reply='{NASTY}')\nlog.info('said', reply='{NASTY}'.replace('\\ud800', ''))",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen'}"},
        stderr=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    for line in done.stderr.splitlines():
        assert line.decode().isprintable()
    assert len(done.stderr.splitlines()) == len(done.stderr.decode().splitlines()) == 2


def test_an_exception_is_one_line_without_local_variables() -> None:
    lines, _ = run(
        "def fail():\n    password = 'hunter2'\n    raise ValueError('went wrong')\n"
        "try:\n    fail()\nexcept ValueError:\n    log.exception('broke', id=1)\n"
    )
    (line,) = lines
    assert line["level"] == "error"
    assert line["exception"][0]["exc_value"] == "went wrong"
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_a_log_that_cannot_be_written_stops_nobody(where: str) -> None:
    """A full disk takes the logs first; what they tell of has to go on."""
    code = "for number in range(1000):\n    log.info('line', text='x' * 500)\nprint('went on')\n"
    if where == "closed":
        _, output = run("import os\nos.close(2)\n" + code)
    else:
        with Path(where).open("wb") as file:
            _, output = run_quietly(code, file.fileno())
    assert output == "went on\n"


def run_quietly(code: str, stderr: int) -> tuple[None, str]:
    """As ``run``, with the log elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen'}"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=60,
        check=False,
    )
    return None, done.stdout.decode()
