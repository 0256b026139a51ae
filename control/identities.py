"""What tenants may send as, put together: the checker of domains, the tasks for domains and senders, the mailer."""

from dataclasses import dataclass

from control.confirmations import Confirmations
from control.database import Database
from control.domaincheck.checker import Checker
from control.domaincheck.lookup import Nameservers
from control.domainsweep import DomainSweep
from control.model import addresses
from control.model.dnsrecords import SendingPlan
from control.sealing import Sealer
from control.services.mailer import MtaMailer
from mta.runtime.options import Options, OptionsError
from mta.runtime.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Identities:
    """The parts. ``refused_domains`` are those whose single addresses are not taken as senders."""

    checker: Checker
    sweep: DomainSweep
    confirmations: Confirmations
    mailer: MtaMailer
    refused_domains: frozenset[str]


def assemble(options: Options, database: Database, sealer: Sealer, operator_token: str) -> Identities:
    """Build the parts by the options. Raises OptionsError."""
    wanted, host = options.control, options.mta.hostname
    plan = SendingPlan(
        hosts=tuple(wanted.sending_hosts) or (host,),
        spf_include=wanted.spf_include,
        return_path_target=(wanted.return_path_target or host).lower(),
        tracking_target=(wanted.tracking_target or host).lower(),
    )
    try:
        refused = [addresses.domain_name(domain, "domain") for domain in wanted.refused_sender_domains]
    except Refusal as refusal:
        raise OptionsError(f"control.refused_sender_domains: {refusal.message}") from refusal
    checker = Checker(Nameservers(wanted.dns_nameservers), plan)
    mailer = MtaMailer(
        wanted.mta_address or options.node.listen, operator_token, wanted.confirmation_sender, options.node_client
    )
    return Identities(
        checker=checker,
        sweep=DomainSweep(database, sealer, checker),
        confirmations=Confirmations(database, sealer, mailer),
        mailer=mailer,
        refused_domains=frozenset(refused),
    )
