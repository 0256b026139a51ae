"""Which programs make up an installation, in which order they start and stop. Pure.

Start: control first (the others need its policy), then everything else at once, except that the bridge waits until the
first tenants are made and known to the workers. Stop: the bridge takes no more
requests, the workers drain, the node pushes the rest of the journal, control stores it and stops its database, and the
inbox, which the workers may still deliver to, goes after them.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mta.runtime.options import Options

TOTAL_STOP_SECONDS = 60.0
"""After this much time of an orderly stop what is left is killed; nothing answered 250 is lost by that."""
START_SECONDS = 90.0
"""Everything must be ready by then; the first start of an embedded PostgreSQL on a slow disk is most of it."""


class Stage(IntEnum):
    """The order of stopping."""

    EDGE = 1
    WORKERS = 2
    NODE = 3
    INBOX = 4
    CONTROL = 5


@dataclass(frozen=True, slots=True)
class Program:
    """One child."""

    name: str
    arguments: tuple[str, ...]
    """Module and its arguments, as after ``python -m``."""
    stage: Stage
    stop_seconds: float
    """Time for an orderly stop of this one; then it is killed."""


def programs(options: Options, config: Path) -> list[Program]:
    """All programs of an installation in the order in which they start."""
    file = ("--config", str(config))
    found = [Program("control", ("control", "serve", *file), Stage.CONTROL, 40.0)]
    if options.demo:
        found.append(Program("inbox", ("control.demo.inbox", *file), Stage.INBOX, 5.0))
    found.append(Program("node", ("mta", "node", *file), Stage.NODE, 15.0))
    found += [
        Program(f"worker-{index}", ("mta", "worker", "--index", str(index), *file), Stage.WORKERS, 40.0)
        for index in range(options.mta.workers)
    ]
    found.append(Program("bridge", ("api_bridge", *file), Stage.EDGE, 10.0))
    return found


def bootstrap(config: Path) -> tuple[str, ...]:
    """Module and arguments of the program that runs once, when control is up."""
    return ("control.bootstrap", "--config", str(config))
