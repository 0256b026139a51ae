"""What one message costs in the SMTP sessions, beside a bare loop that only searches and copies the same bytes.

Run: ``python -m benchmarks.micro.bench_smtp [--content 4096] [--rounds 9]``. Prints microseconds of processor time per
transaction: the best round and the median of all, so that a busy machine shows itself. Nothing here does I/O; the
callers' own checks are not part of it.

- *server, one piece*    MAIL, RCPT, DATA, content and final dot in one ``feed`` (RFC 2920 allows all but the last).
- *server, two pieces*   commands in one ``feed``, content and final dot in the next: what a real client does.
- *server, 1460 octets*  the content in segments.
- *client, pipelined*    two ``feed`` of replies: 250 250 354, then 250.
- *client, one by one*   the same without PIPELINING.
- *ceiling*              find the ends of the same lines and of the data, slice them out, and look for bare line ends:
                         the least that any implementation in this language must do.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

from mta.smtp import (
    ClientSession,
    MailReceived,
    MessageReceived,
    RcptReceived,
    Reply,
    ServerConfig,
    ServerSession,
    Transaction,
    TransactionDone,
    codes,
)
from mta.smtp.data import has_strict_line_ends

_LOOPS = 2000
_COMMANDS = (
    b"MAIL FROM:<bounce-12345@mail.example.com> SIZE=4096 BODY=8BITMIME\r\n"
    b"RCPT TO:<someone.else@recipient.example.net>\r\n"
    b"DATA\r\n"
)


def make_content(octets: int) -> bytes:
    """A message of about ``octets`` octets in lines of 72."""
    line = b"The quick brown fox jumps over the lazy dog. " * 2
    lines = [b"Subject: benchmark", b""] + [line[:70]] * ((octets - 22) // 72)
    return b"\r\n".join(lines) + b"\r\n"


def _new_server() -> ServerSession:
    session = ServerSession(ServerConfig("mx.example.org"))
    session.greet()
    session.feed(b"EHLO client.example.com\r\n")
    session.next_event()
    session.take_output()
    return session


def _pump(session: ServerSession) -> int:
    messages = 0
    while (event := session.next_event()) is not None:
        kind = type(event)
        if kind is MailReceived:
            session.reply(codes.SENDER_OK)
        elif kind is RcptReceived:
            session.reply(codes.RECIPIENT_OK)
        elif kind is MessageReceived:
            session.reply(Reply(250, "2.0.0", "Queued as 0123456789ABC"))
            messages += 1
        else:
            raise AssertionError(event)
    session.take_output()
    return messages


def server_case(pieces: list[bytes]) -> Callable[[], None]:
    """A transaction in the given pieces, repeated on one connection."""
    session = _new_server()

    def run() -> None:
        done = 0
        for _ in range(_LOOPS):
            for piece in pieces:
                session.feed(piece)
                done += _pump(session)
        assert done == _LOOPS

    return run


def client_case(content: bytes, *, pipelined: bool) -> Callable[[], None]:
    """A transaction against a server that agrees, repeated on one connection."""
    session = ClientSession("mta1.example.org")
    session.start()
    session.feed(b"220 mx.example.net ESMTP\r\n")
    session.next_event()
    keywords = b"250-PIPELINING\r\n" if pipelined else b""
    session.feed(b"250-mx.example.net\r\n" + keywords + b"250-SIZE 10485760\r\n250 8BITMIME\r\n")
    session.next_event()
    session.take_output()
    if pipelined:
        steps = [b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"]
    else:
        steps = [b"250 2.1.0 Ok\r\n", b"250 2.1.5 Ok\r\n", b"354 End data with <CR><LF>.<CR><LF>\r\n"]
    names = itertools.count()

    def run() -> None:
        for _ in range(_LOOPS):
            session.send(
                Transaction("bounce-12345@mail.example.com", ("someone.else@recipient.example.net",), content, True)
            )
            session.take_output()
            for step in (*steps, b"250 2.0.0 Ok: queued as %d\r\n" % next(names)):
                session.feed(step)
                event = session.next_event()
                session.take_output()
            assert type(event) is TransactionDone

    return run


def ceiling_case(content: bytes) -> Callable[[], None]:
    """The searching and slicing alone."""
    whole = _COMMANDS + content + b".\r\n"

    def run() -> None:
        for _ in range(_LOOPS):
            start = 0
            for _ in range(3):
                end = whole.find(b"\n", start)
                line = whole[start : end - 1]
                start = end + 1
            end = whole.find(b"\r\n.\r\n", start)
            body = whole[start : end + 2]
            assert has_strict_line_ends(body) and line

    return run


def measure(run: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Best and median microseconds of processor time per transaction."""
    run()
    times = []
    for _ in range(rounds):
        before = time.process_time()
        run()
        times.append((time.process_time() - before) / _LOOPS * 1e6)
    return min(times), statistics.median(times)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--content", type=int, default=4096, help="octets of content")
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    content = make_content(chosen.content)
    data = content + b".\r\n"
    segments = [data[i : i + 1460] for i in range(0, len(data), 1460)]
    cases = {
        "server, one piece": server_case([_COMMANDS + data]),
        "server, two pieces": server_case([_COMMANDS, data]),
        "server, 1460 octets": server_case([_COMMANDS, *segments]),
        "client, pipelined": client_case(content, pipelined=True),
        "client, one by one": client_case(content, pipelined=False),
        "ceiling": ceiling_case(content),
    }
    print(f"{len(content)} octets of content, {_LOOPS} transactions a round, {chosen.rounds} rounds")
    print(f"{'case':<22}{'best us':>10}{'median us':>11}")
    for name, run in cases.items():
        best, median = measure(run, chosen.rounds)
        print(f"{name:<22}{best:>10.1f}{median:>11.1f}")


if __name__ == "__main__":
    main()
