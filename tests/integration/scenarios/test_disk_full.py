"""A spool that cannot be written: 451 and nothing queued, and it works again by itself once it can."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mta.runtime.options import Options
from tests.integration.mta.wire import Answer, Wire
from tests.integration.scenarios.conftest import installation
from tests.support.fastsink import FastSink
from tests.support.stack import ACCOUNT, ACCOUNT_CREDITS, DOMAIN, Stack, changed
from tests.support.waiting import wait_until

SPOOL_BYTES = 4 * 1024 * 1024
LARGE = "x" * 70 + "\r\n"


def no_reserve(options: Options) -> Options:
    """Options without a reserve of free room, so that it is the write that fails."""
    return changed(options, "mta.limits", spool_free_bytes=0)


def send(stack: Stack, token: str, lines: int = 10) -> Answer:
    """Send one message over a connection of its own; the last reply."""
    with Wire(stack.smtp_port) as wire:
        if wire.greeting.code != 220:
            return wire.greeting
        wire.ask("EHLO client.test")
        wire.log_in(stack.login)
        answer = wire.ask(f"MAIL FROM:<news@{DOMAIN}>")
        if answer.code != 250:
            return answer
        wire.ask(f"RCPT TO:<{token}@example.net>")
        assert wire.ask("DATA").code == 354
        wire.send(f"X-Token: {token}\r\n\r\n{LARGE * lines}.\r\n".encode())
        return wire.reply()


def check_books(stack: Stack, sink: FastSink, sent: set[str]) -> None:
    """Exactly ``sent`` arrived, once each, and was charged."""
    sink.wait(len(sent))
    stack.wait_until_empty()
    stack.wait_for_history(ACCOUNT, len(sent))
    assert dict(sink.copies) == dict.fromkeys(sent, 1)
    wait_until(lambda: stack.operator.balance(ACCOUNT).consumed == len(sent), "exactly what was sent is charged")
    balance = stack.operator.balance(ACCOUNT)
    assert balance.available + balance.reserved == ACCOUNT_CREDITS - len(sent)
    assert len(stack.operator.history(ACCOUNT)) == len(sent)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of ``SPOOL_BYTES`` at ``folder``."""
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SPOOL_BYTES},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No room is left on the file system of ``folder``."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def files_cannot_grow(pid: int, spool: Path) -> Iterator[None]:
    """A process can write no file beyond the present end of its spool's log."""
    size = spool.with_name(spool.name + "-wal").stat().st_size
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_failed_write_is_451_and_the_worker_recovers_by_itself(tmp_path: Path, fast_sink: FastSink) -> None:
    with installation(tmp_path / "stack", fast_sink.port, workers=1, change=no_reserve) as stack:
        worker = stack.workers[0]
        spool = stack.options.path("spool", "worker-0.db")
        assert send(stack, "before", lines=1000).code == 250
        stack.wait_until_empty()
        with files_cannot_grow(worker.pid, spool):
            refused = send(stack, "refused")
            assert (refused.code, refused.enhanced) == (451, "4.3.0"), refused
            assert "could not be stored" in refused.text
            # From now on it says so at once, without trying.
            assert send(stack, "refused-at-once").code in (421, 451)
            assert "refused" not in fast_sink.copies
        wait_until(lambda: send(stack, "after").code == 250, "the worker has recovered", 5)
        check_books(stack, fast_sink, {"before", "after"})
        assert '"event":"spool_recovered"' in worker.log_end(20_000).replace('": "', '":"')


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_451_and_the_worker_recovers_by_itself(tmp_path: Path, fast_sink: FastSink) -> None:
    folder = tmp_path / "stack" / "home" / "spool"
    with (
        small_disk(folder),
        installation(tmp_path / "stack", fast_sink.port, workers=1, change=no_reserve) as stack,
    ):
        assert send(stack, "before").code == 250
        stack.wait_until_empty()
        with filled(folder):
            codes = {send(stack, f"refused-{number}", lines=2000).code for number in range(3)}
            assert codes <= {451, 421} and 451 in codes
        wait_until(lambda: send(stack, "after", lines=2000).code == 250, "the worker has recovered", 5)
        check_books(stack, fast_sink, {"before", "after"})


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_mail_is_refused_before_the_disk_is_full_and_outcomes_still_find_room(
    tmp_path: Path, fast_sink: FastSink
) -> None:
    def reserve(options: Options) -> Options:
        return changed(options, "mta.limits", spool_free_bytes=SPOOL_BYTES // 2)

    folder = tmp_path / "stack" / "home" / "spool"
    with small_disk(folder), installation(tmp_path / "stack", fast_sink.port, workers=1, change=reserve) as stack:
        fast_sink.stop()
        accepted = set()
        for number in range(20):
            if send(stack, f"queued-{number}", lines=2000).code != 250:
                break
            accepted.add(f"queued-{number}")
        assert 5 <= len(accepted) < 20
        refused = wait_until(lambda: _refused(stack), "mail is refused for lack of room", 5)
        assert refused.code in (421, 452) and "no room for mail now" in refused.text, refused
        fast_sink.start()
        check_books(stack, fast_sink, accepted)


def _refused(stack: Stack) -> Answer | None:
    answer = send(stack, "no-room", lines=1)
    return None if answer.code == 250 else answer
