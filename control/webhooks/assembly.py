"""The parts of webhooks, put together from the options."""

import ssl
from dataclasses import dataclass

from control.database import Database
from control.sealing import Sealer
from control.webhooks import sender
from control.webhooks.destinations import Rules
from control.webhooks.disabling import Disabling
from control.webhooks.dispatcher import Dispatcher
from control.webhooks.fanout import Fanout
from control.webhooks.resolving import Addresses
from control.webhooks.sender import Sender
from control.webhooks.vault import Vault
from mta.runtime.options import Options, OptionsError


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What the service and the program need of webhooks."""

    rules: Rules
    vault: Vault
    sender: Sender
    dispatcher: Dispatcher
    fanout: Fanout


def assemble(options: Options, database: Database, sealer: Sealer) -> Webhooks:
    """Put it together. Raises OptionsError for a file of authorities that cannot be used."""
    chosen = options.control.webhooks
    rules = Rules(chosen.allow_http, chosen.allowed_networks, options.demo)
    try:
        context = sender.trust(chosen.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise OptionsError(f"control.webhooks.ca_file {chosen.ca_file} cannot be used: {error}") from error
    posting = Sender(Addresses(rules, options.control.dns_nameservers), context, chosen.timeout_seconds)
    vault = Vault(sealer)
    disabling = Disabling(chosen.disable_after_seconds)
    dispatcher = Dispatcher(database, posting, vault, rules, disabling, chosen.connections, chosen.pace)
    return Webhooks(rules, vault, posting, dispatcher, Fanout(rules, vault, chosen.pace))
