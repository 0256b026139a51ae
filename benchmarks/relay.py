"""Relay: Barua and Postfix in turn, in one run, on the same machine, with and without DKIM.

``python -m benchmarks.relay`` (``make bench``), as root. Both peers take the same load from ``smtp-source``, have each
message on disk before its 250, and pass it on to the same ``smtp-sink``. The time runs from the start of the source
until the sink has the last message. Peers alternate; medians of the rounds count. Before each measured load the peer
sends one message that is looked at (is it signed as it should be?) and a smaller load that is not counted.

The result is printed and written to ``benchmarks/results`` with the facts of the machine.
"""

import argparse
import json
import shutil
import smtplib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from benchmarks import machine
from benchmarks.barua import Barua
from benchmarks.load import Load, LoadFailed, Timing, run
from benchmarks.postfix import PeerFailed, Postfix
from mta.runtime import log
from tests.support.debian import Tools, ToolsMissing, tools
from tests.support.ports import free_port
from tests.support.smtpsink import SmtpSink

RESULTS = Path(__file__).resolve().parent / "results"
# What the goals of this release ask for: Barua over Postfix.
GOALS = {False: 2.0, True: 3.0}
SIGNATURES = {("barua", True): 2, ("postfix", True): 1, ("barua", False): 0, ("postfix", False): 0}
WARM_UP = 500


class Peer(Protocol):
    """A relay that listens on ``port``."""

    port: int


Start = Callable[[int, bool], AbstractContextManager[Peer]]


@dataclass(frozen=True, slots=True)
class Result:
    """One measured load."""

    peer: str
    signing: bool
    timing: Timing


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    chosen = _parse(arguments)
    log.configure("benchmark", "error")
    folder = chosen.folder / "barua-bench"
    folder.mkdir(parents=True, exist_ok=True)
    load = Load(messages=chosen.messages, sessions=chosen.sessions, size=chosen.size)
    try:
        unpacked = tools()
        facts = machine.facts(folder)
        print(json.dumps(facts, indent=2))
        ceiling = _ceiling(unpacked, load)
        print(f"smtp-source straight into smtp-sink: {ceiling:,.0f} msg/s")
        starts = _starts(unpacked, folder, chosen)
        results = [
            _measure(unpacked, folder, load, name, starts[name], signing)
            for signing in ([True, False] if chosen.dkim is None else [chosen.dkim])
            for _ in range(chosen.rounds)
            for name in chosen.peers
        ]
    except (LoadFailed, PeerFailed, ToolsMissing) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
    report = _report(results, load, facts, ceiling)
    _print(report)
    _write(report)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.relay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measured loads per peer and kind (3)")
    parser.add_argument("--messages", type=int, default=10_000, help="per load (10000)")
    parser.add_argument("--sessions", type=int, default=20, help="at once (20)")
    parser.add_argument("--size", type=int, default=4096, help="of a message, in bytes (4096)")
    parser.add_argument("--workers", type=int, default=2, help="of Barua (2)")
    parser.add_argument("--peers", nargs="+", choices=["postfix", "barua"], default=["postfix", "barua"])
    parser.add_argument(
        "--dkim", action=argparse.BooleanOptionalAction, help="only with, only without; both if not given"
    )
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where the queues are (/var/tmp)")
    parser.add_argument("--keep", action="store_true", help="leave queues and logs behind")
    return parser.parse_args(arguments)


def _starts(unpacked: Tools, folder: Path, chosen: argparse.Namespace) -> dict[str, Start]:
    return {
        "postfix": lambda port, signing: Postfix(unpacked, folder / "postfix", port, signing),
        "barua": lambda port, signing: Barua(_fresh(folder / "barua"), port, signing, chosen.workers),
    }


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _ceiling(unpacked: Tools, load: Load) -> float:
    """What the generators manage without anything between them."""
    with SmtpSink(unpacked=unpacked) as sink:
        return median(run(unpacked, load, sink.port, sink).rate for _ in range(3))


def _measure(unpacked: Tools, folder: Path, load: Load, name: str, start: Start, signing: bool) -> Result:
    port = free_port()
    with start(port, signing) as peer:
        _look(unpacked, folder / "look", peer.port, port, SIGNATURES[name, signing])
        with SmtpSink(unpacked=unpacked, port=port) as sink:
            run(unpacked, Load(WARM_UP, load.sessions, load.size), peer.port, sink)
            timing = run(unpacked, load, peer.port, sink)
    result = Result(name, signing, timing)
    kind = "DKIM" if signing else "no DKIM"
    print(f"{name:8} {kind:8} {timing.rate:8,.0f} msg/s end to end, {timing.accept_rate:8,.0f} accepted", flush=True)
    return result


def _look(unpacked: Tools, folder: Path, port: int, sink_port: int, signatures: int) -> None:
    """Send one message and see that it arrives, signed so often. Raises LoadFailed."""
    shutil.rmtree(folder, ignore_errors=True)
    with SmtpSink(unpacked=unpacked, port=sink_port, dump_folder=folder) as sink:
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            content = b"From: source@bench.test\r\nTo: sink@example.net\r\nSubject: look\r\n\r\nA line.\r\n"
            client.sendmail("source@bench.test", ["sink@example.net"], content)
        try:
            sink.wait(1)
        except TimeoutError as error:
            raise LoadFailed(f"the first message did not arrive: {error}") from error
        found = len(sink.received()[0].headers("DKIM-Signature"))
    if found != signatures:
        raise LoadFailed(f"a message has {found} DKIM signatures, not {signatures}")


def _report(results: list[Result], load: Load, facts: dict[str, Any], ceiling: float) -> dict[str, Any]:
    """Medians and ratios with everything they come from."""
    kinds = []
    for signing in sorted({result.signing for result in results}):
        rates = {
            peer: [
                round(result.timing.rate, 1) for result in results if (result.peer, result.signing) == (peer, signing)
            ]
            for peer in sorted({result.peer for result in results})
        }
        medians = {peer: round(median(values), 1) for peer, values in rates.items()}
        ratio = round(medians["barua"] / medians["postfix"], 2) if len(medians) == 2 else None
        kinds.append({"dkim": signing, "rates": rates, "medians": medians, "ratio": ratio, "goal": GOALS[signing]})
    return {
        "scenario": "relay",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": {"messages": load.messages, "sessions": load.sessions, "size": load.size},
        "ceiling": round(ceiling, 1),
        "kinds": kinds,
        "machine": facts,
    }


def _print(report: dict[str, Any]) -> None:
    for kind in report["kinds"]:
        medians = ", ".join(f"{peer} {value:,.0f} msg/s" for peer, value in kind["medians"].items())
        title = "with DKIM" if kind["dkim"] else "without DKIM"
        ratio = f"; Barua is {kind['ratio']} x Postfix (goal {kind['goal']})" if kind["ratio"] else ""
        print(f"{title}: medians {medians}{ratio}")


def _write(report: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"relay-{report['time'].replace(':', '').replace('-', '')}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    raise SystemExit(main())
