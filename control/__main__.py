"""``python -m control serve [--config FILE]``: the control program."""

import argparse
import os
from pathlib import Path

from control.app import serve
from mta.runtime import lifecycle, log, options


def main() -> None:
    """Read the command line and the options, and serve."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m control", description="The control plane of Barua.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve gRPC until SIGTERM")
    command.add_argument("--config", type=Path, help="TOML file; without it all options have their defaults")
    arguments = parser.parse_args()
    try:
        loaded = options.load(arguments.config)
    except options.OptionsError as error:
        parser.error(str(error))
    log.configure("control", loaded.log.level)
    lifecycle.run(lambda drain: serve(loaded, drain))


if __name__ == "__main__":
    main()
