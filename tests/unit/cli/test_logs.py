"""Logs of children, and what of them is said on the terminal."""

import os
from pathlib import Path

from control.supervisor import logs
from control.supervisor.logs import LogFile, Repeats, summary


def test_warnings_are_said_and_routine_is_not() -> None:
    assert summary(b'{"level":"info","event":"message_received","id":1}') is None
    line = b'{"level":"warning","event":"site_throttled","site":"mx.test","time":"2026-01-01","program":"worker"}'
    assert summary(line) == "site_throttled site=mx.test"


def test_an_exception_is_said_with_its_cause() -> None:
    line = b'{"level":"error","event":"failed","exception":[{"exc_type":"OSError","exc_value":"no space"}]}'
    assert summary(line) == "failed OSError: no space"


def test_what_is_not_json_is_said() -> None:
    assert summary(b"Segmentation fault") == "Segmentation fault"
    assert summary(b"   ") is None


def test_of_a_traceback_the_exception_is_said(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "node")
    os.write(log.fileno(), b"Traceback (most recent call last):\n  File x, line 1\nOSError: no space\n")
    os.write(
        log.fileno(), b'{"level":"error","event":"failed"}\nI1121 23:09:39.7 12080 fork_posix.cc:71] Other threads\n'
    )
    assert log.important() == ["OSError: no space", "failed"]
    log.close()


def test_a_terminal_is_not_obeyed() -> None:
    said = summary(b'{"level":"error","event":"x","peer":"\\u001b[2J\\u0007"}')
    assert said is not None
    assert said.isprintable()


def test_only_what_is_new_is_said(tmp_path: Path) -> None:
    (tmp_path / "node.log").write_bytes(b'{"level":"error","event":"old"}\n')
    log = LogFile(tmp_path, "node")
    assert log.important() == []
    os.write(log.fileno(), b'{"level":"error","event":"new"}\n{"level":"err')
    assert log.important() == ["new"]
    os.write(log.fileno(), b'or","event":"rest"}\n')
    assert log.important() == ["rest"]
    assert log.last_line() == "rest"
    log.close()


def test_a_flood_is_cut(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "node")
    os.write(log.fileno(), b'{"level":"error","event":"again"}\n' * 100)
    said = log.important()
    assert len(said) == logs.MAX_LINES + 1
    assert "95 more" in said[-1]
    log.close()


def test_a_line_again_and_again_is_said_once_in_a_while() -> None:
    repeats = Repeats()
    said = [repeats.new("no database", second) for second in (0.0, 0.5, 29.0, 30.0, 30.5)]
    assert said == [True, False, False, True, False]
    assert repeats.new("database is back", 31.0)
    assert repeats.new("no database", 31.5)


def test_a_large_file_is_rotated(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "node")
    os.ftruncate(log.fileno(), logs.MAX_BYTES)
    os.write(log.fileno(), b'{"level":"error","event":"last"}\n')
    log.important()
    os.write(log.fileno(), b'{"level":"error","event":"first"}\n')
    assert log.path.stat().st_size < 100
    assert log.path.with_name("node.log.1").stat().st_size > logs.MAX_BYTES
    assert log.important() == ["first"]
    log.close()
