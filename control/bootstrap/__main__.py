"""``python -m control.bootstrap --config FILE``: make what the configuration wants made, then end.

Waits for control, makes the tenants of ``bootstrap.tenants`` and, in demo mode, the demo accounts. Status 0: all is
there; 1: control refused or did not answer; 2: the configuration cannot be used. Says why in its log.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from barua_client import Connection, Unreachable, bearer
from control.bootstrap import demo_accounts, tenants
from control.bootstrap.token import read_token
from mta.runtime import log as logs
from mta.runtime import rpc
from mta.runtime.options import Options, OptionsError, load
from mta.runtime.refusals import Refusal

WAIT_SECONDS = 60.0

log = logs.get_logger(__name__)


async def bootstrap(options: Options) -> None:
    """Make everything. Raises Refusal, Unreachable, OptionsError."""
    token = read_token(options.path("secrets", "operator.token"))
    address = options.node.control_address
    channel = rpc.channel(address, options.control_client)
    async with Connection(address, bearer(token), channel=channel) as operator:
        await operator.wait_until_serving(WAIT_SECONDS)
        parents = {tenant.parent for tenant in options.bootstrap.tenants}
        for tenant in options.bootstrap.tenants:
            await tenants.ensure(operator, tenants.plan_of(tenant, has_children=tenant.id in parents))
        if options.demo:
            await demo_accounts.ensure(operator, options, token)


def main() -> None:
    """Parse, run, end with a status."""
    parser = argparse.ArgumentParser(prog="control.bootstrap")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        options = load(arguments.config)
        logs.configure("bootstrap", options.log.level)
        asyncio.run(bootstrap(options))
    except (Refusal, Unreachable) as error:
        log.error("bootstrap_failed", reason=str(error))
        sys.exit(1)
    except OptionsError as error:
        log.error("cannot_start", reason=str(error))
        sys.exit(2)
    log.info("bootstrap_done", tenants=len(options.bootstrap.tenants), demo=options.demo)


if __name__ == "__main__":
    main()
