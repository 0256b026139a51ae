"""What of a kept domain is looked for in the DNS."""

from control.domaincheck.checker import PublishedKey, Wanted
from control.store.dkim_keys import DkimKey, KeyState
from control.store.domains import Domain
from control.store.sending import Ways


def published(key: DkimKey) -> PublishedKey:
    """The public side of a key."""
    return PublishedKey(key.selector, key.algorithm, key.public_key, ours=not key.imported)


def wanted(domain: Domain, ways: Ways) -> Wanted:
    """What the DNS of a domain should have; of its keys those that are used, and those that will be."""
    settings = domain.settings
    return Wanted(
        domain=domain.domain,
        challenge="" if domain.trusted else domain.challenge,
        signing_off=settings.signing_off,
        keys=tuple(published(key) for key in domain.keys if key.state is not KeyState.RETIRED),
        return_path_host=settings.return_path_host,
        tracking_host=settings.tracking_host,
        sources=ways.sources,
        from_hosts=ways.default or not ways.sources,
    )
