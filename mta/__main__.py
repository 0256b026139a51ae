"""Command line of the MTA's programs: ``python -m mta worker --index N`` and ``python -m mta node``."""

import argparse
import sys
from pathlib import Path

from mta.runtime import lifecycle, log
from mta.runtime.options import OptionsError, load


def main() -> None:
    """Parse the command line and run one program to its end."""
    parser = argparse.ArgumentParser(prog="mta")
    parser.add_argument("--config", type=Path, help="TOML file with the options")
    programs = parser.add_subparsers(dest="program", required=True)
    worker = programs.add_parser("worker", help="accepts and delivers mail")
    worker.add_argument("--index", type=int, required=True, help="number of the worker on this machine, from 0")
    node = programs.add_parser("node", help="keeps the policy and the way to control for the workers")
    for program in (worker, node):
        program.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="TOML file with the options")
    arguments = parser.parse_args()
    name = f"worker-{arguments.index}" if arguments.program == "worker" else "node"
    try:
        options = load(arguments.config)
    except OptionsError as error:
        sys.exit(str(error))
    log.configure(name, options.log.level)
    if arguments.program == "worker":
        # Imported late: a node needs no SMTP engine and a worker no node.
        from mta.app import run_worker

        lifecycle.run(lambda drain: run_worker(options, arguments.index, drain))
    else:
        from mta.node.app import run_node

        lifecycle.run(lambda drain: run_node(options, drain))


if __name__ == "__main__":
    main()
