"""The program: ``python -m api_bridge [--config FILE]``."""

import argparse
import functools
import sys
from pathlib import Path

from api_bridge.app import serve
from mta.runtime import lifecycle, log
from mta.runtime.options import OptionsError, load


def main() -> None:
    """Read the options and run; status 2 if they cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m api_bridge", description="The JSON bridge of Barua.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the options; none: all defaults")
    arguments = parser.parse_args()
    try:
        options = load(arguments.config)
    except OptionsError as error:
        sys.exit(f"{parser.prog}: {error}")
    log.configure("api_bridge", options.log.level)
    lifecycle.run(functools.partial(serve, options))


if __name__ == "__main__":
    main()
