"""A spool that cannot be written: 451 and nothing queued, and it works again by itself once it can."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mta.runtime.options import Options
from tests.integration.mta.wire import Answer, Wire
from tests.integration.scenarios import books
from tests.integration.scenarios.conftest import installation
from tests.support.fastsink import FastSink
from tests.support.stack import ACCOUNT, ACCOUNT_CREDITS, DOMAIN, Stack, changed
from tests.support.waiting import wait_until

SPOOL_BYTES = 8 * 1024 * 1024
RESERVE_BYTES = SPOOL_BYTES // 2
LARGE = "x" * 70 + "\r\n"


@pytest.fixture
def fast_sink() -> Iterator[FastSink]:
    """The remote server of one test's installation."""
    with FastSink() as sink:
        yield sink


def no_reserve(options: Options) -> Options:
    """Options without a reserve of free room, so that it is the write that fails."""
    return changed(options, "mta.limits", spool_free_bytes=0)


def send(stack: Stack, token: str, lines: int = 10, sender: str = f"news@{DOMAIN}") -> Answer:
    """Send one message over a connection of its own; the last reply."""
    with Wire(stack.smtp_port) as wire:
        if wire.greeting.code != 220:
            return wire.greeting
        wire.ask("EHLO client.test")
        wire.log_in(stack.login)
        answer = wire.ask(f"MAIL FROM:<{sender}>")
        if answer.code != 250:
            return answer
        wire.ask(f"RCPT TO:<{token}@example.net>")
        assert wire.ask("DATA").code == 354
        wire.send(f"X-Token: {token}\r\n\r\n{LARGE * lines}.\r\n".encode())
        return wire.reply()


def refusal(stack: Stack, accepted: set[str]) -> Answer | None:
    """Send one more message: its refusal, or its token goes into ``accepted``."""
    token = f"message-{len(accepted)}"
    answer = send(stack, token)
    if answer.code != 250:
        return answer
    accepted.add(token)
    return None


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
def filled(folder: Path, left_bytes: int = 0) -> Iterator[None]:
    """Only so much room is left on the file system of ``folder``."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(folder).free > left_bytes:
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
        wait_until(lambda: books.outbox_rows(stack) <= 1, "control has been told, so nothing else is written")
        with files_cannot_grow(worker.pid, spool):
            refused = send(stack, "refused")
            assert (refused.code, refused.enhanced) == (451, "4.3.0"), refused
            assert "could not be stored" in refused.text
            # From now on it says so at once, without trying.
            assert send(stack, "refused-at-once").code in (421, 451)
            assert "refused" not in fast_sink.copies
        wait_until(lambda: send(stack, "after").code == 250, "the worker has recovered")
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
        wait_until(lambda: send(stack, "after", lines=2000).code == 250, "the worker has recovered")
        check_books(stack, fast_sink, {"before", "after"})


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_mail_is_refused_before_the_disk_is_full_and_outcomes_still_find_room(
    tmp_path: Path, fast_sink: FastSink
) -> None:
    def reserve(options: Options) -> Options:
        return changed(options, "mta.limits", spool_free_bytes=RESERVE_BYTES)

    folder = tmp_path / "stack" / "home" / "spool"
    with small_disk(folder), installation(tmp_path / "stack", fast_sink.port, workers=1, change=reserve) as stack:
        fast_sink.stop()
        queued = {f"queued-{number}" for number in range(10)}
        for token in queued:
            assert send(stack, token).code == 250
        with filled(folder, RESERVE_BYTES // 2):
            # The room is looked at once a second.
            refused = wait_until(lambda: refusal(stack, queued), "mail is refused")
            assert refused is not None and refused.code in (421, 452), refused
            assert "no room for mail now" in refused.text
            fast_sink.start()
            fast_sink.wait(len(queued))
            stack.wait_until_empty()
        wait_until(lambda: send(stack, "after").code == 250, "there is room again")
        check_books(stack, fast_sink, queued | {"after"})


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_everything_comes_back_when_the_disk_of_all_state_was_full(tmp_path: Path, fast_sink: FastSink) -> None:
    folder = tmp_path / "stack" / "home"
    with small_disk(folder), installation(tmp_path / "stack", fast_sink.port, workers=1, change=no_reserve) as stack:
        assert send(stack, "before").code == 250
        stack.wait_until_empty()
        with filled(folder):
            assert send(stack, "refused", lines=2000).code == 451
            stack.operator.create_domain(ACCOUNT, "while-full.test")
            wait_until(lambda: "policy_not_written" in stack.node.log_end(), "the replica could not be written")
        wait_until(lambda: send(stack, "after", sender="news@while-full.test").code == 250, "all is well again")
        check_books(stack, fast_sink, {"before", "after"})


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_logs_that_cannot_be_written_stop_nothing(tmp_path: Path, fast_sink: FastSink) -> None:
    folder = tmp_path / "stack" / "home" / "log"
    with small_disk(folder), installation(tmp_path / "stack", fast_sink.port, workers=1) as stack, filled(folder):
        sent = {f"unlogged-{number}" for number in range(20)}
        for token in sent:
            assert send(stack, token).code == 250
        check_books(stack, fast_sink, sent)
