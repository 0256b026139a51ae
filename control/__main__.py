"""The control program: ``python -m control serve``, and for keys ``python -m control keys`` and ``tracking-keys``.

All take ``--config FILE``. What the verbs do is in ``control.resealing`` and ``control.trackingkeys``.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from control import keys, trackingkeys
from control.app import serve
from mta.runtime import lifecycle, log, options
from mta.runtime.options import OptionsError
from mta.runtime.refusals import Refusal


def main() -> None:
    """Read the command line and the options, and run."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m control", description="The control plane of Barua.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve gRPC until SIGTERM")
    sealing = commands.add_parser("keys", help=f"sealing keys: {', '.join(keys.VERBS)}")
    sealing.add_argument(
        "verb", choices=keys.VERBS, help="; ".join(f"{verb}: {text}" for verb, text in keys.VERBS.items())
    )
    tracking = commands.add_parser("tracking-keys", help=f"keys of links in messages: {', '.join(trackingkeys.VERBS)}")
    tracking.add_argument(
        "verb",
        choices=trackingkeys.VERBS,
        help="; ".join(f"{verb}: {text}" for verb, text in trackingkeys.VERBS.items()),
    )
    for one in (command, sealing, tracking):
        one.add_argument("--config", type=Path, help="TOML file; without it all options have their defaults")
    arguments = parser.parse_args()
    try:
        loaded = options.load(arguments.config)
    except OptionsError as error:
        parser.error(str(error))
    log.configure("control", loaded.log.level)
    if arguments.command == "serve":
        lifecycle.run(lambda drain: serve(loaded, drain))
        return
    try:
        if arguments.command == "keys":
            answer = asyncio.run(keys.run(arguments.verb, loaded))
        else:
            answer = trackingkeys.run(arguments.verb, loaded)
    except (OptionsError, Refusal) as error:
        sys.exit(f"python -m control {arguments.command} {arguments.verb}: {error}")
    print(answer)  # noqa: T201 - the answer to a command


if __name__ == "__main__":
    main()
