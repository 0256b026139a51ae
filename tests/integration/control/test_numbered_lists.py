"""Lists of things with numbers: order, search, number, skip and total, in the same way everywhere."""

from collections.abc import Callable
from typing import Any

import pytest

from barua.control.v1 import (
    alert_pb2,
    alert_service_pb2,
    credential_pb2,
    credential_service_pb2,
    domain_pb2,
    domain_service_pb2,
    list_validation_pb2,
    list_validation_service_pb2,
    oauth_client_pb2,
    oauth_service_pb2,
    sender_pb2,
    sender_service_pb2,
    template_pb2,
    template_service_pb2,
    tenant_pb2,
    tenant_service_pb2,
    webhook_pb2,
    webhook_service_pb2,
)
from barua.control.v1.alert_service_pb2_grpc import AlertServiceStub
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub

from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control

PARENT = "tenants/acme"
TITLES = ("Gamma Straße", "alpha", "Beta 100%_x")
"""In the order of making, which is not that of any name."""


class Kind:
    """One kind of things: how to make one with a title, how to list them, and what its title is."""

    def __init__(
        self,
        make: Callable[[Control, str], tuple[Any, Any]],
        listing: Callable[[Control, dict[str, Any]], tuple[Any, Any]],
        title: Callable[[Any], str] = lambda item: item.display_name,
        by_name: bool = True,
    ) -> None:
        self.make = make
        self.listing = listing
        self.title = title
        self.by_name = by_name

    async def page(self, control: Control, **fields: Any) -> Any:
        """An answer of the list method."""
        return await control.call(*self.listing(control, {"parent": PARENT} | fields))

    async def listed(self, control: Control, **fields: Any) -> list[Any]:
        """What a list method gives."""
        answer = await self.page(control, **fields)
        return list(getattr(answer, _items_of(answer)))

    async def titles(self, control: Control, **fields: Any) -> list[str]:
        """The titles of what a list method gives."""
        return [self.title(item) for item in await self.listed(control, **fields)]


def _items_of(answer: Any) -> str:
    return str(next(field.name for field in answer.DESCRIPTOR.fields if field.is_repeated))


def _domain_of(title: str) -> str:
    return {"Gamma Straße": "gamma.example", "alpha": "alpha.example", "Beta 100%_x": "beta-100.example"}[title]


KINDS: dict[str, Kind] = {
    "tenants": Kind(
        lambda control, title: (
            control.tenants.CreateTenant,
            tenant_service_pb2.CreateTenantRequest(parent=PARENT, tenant=tenant_pb2.Tenant(display_name=title)),
        ),
        lambda control, fields: (control.tenants.ListTenants, tenant_service_pb2.ListTenantsRequest(**fields)),
    ),
    "domains": Kind(
        lambda control, title: (
            control.domains.CreateDomain,
            domain_service_pb2.CreateDomainRequest(
                parent=PARENT,
                domain=_domain_of(title),
                trusted=title != "alpha",
                settings=domain_pb2.Domain(signing=domain_pb2.Domain.SIGNING_OFF),
            ),
        ),
        lambda control, fields: (control.domains.ListDomains, domain_service_pb2.ListDomainsRequest(**fields)),
        title=lambda item: next(title for title in TITLES if item.name.endswith("/" + _domain_of(title))),
    ),
    "webhooks": Kind(
        lambda control, title: (
            WebhookServiceStub(control.channel).CreateWebhook,
            webhook_service_pb2.CreateWebhookRequest(
                parent=PARENT,
                webhook=webhook_pb2.Webhook(
                    display_name=title,
                    url="https://example.com/x",
                    event_kinds=[webhook_pb2.Webhook.EVENT_KIND_BOUNCED],
                ),
            ),
        ),
        lambda control, fields: (
            WebhookServiceStub(control.channel).ListWebhooks,
            webhook_service_pb2.ListWebhooksRequest(**fields),
        ),
    ),
    "templates": Kind(
        lambda control, title: (
            control.templates.CreateTemplate,
            template_service_pb2.CreateTemplateRequest(
                parent=PARENT, template=template_pb2.Template(display_name=title, text="hello")
            ),
        ),
        lambda control, fields: (control.templates.ListTemplates, template_service_pb2.ListTemplatesRequest(**fields)),
    ),
    "senders": Kind(
        lambda control, title: (
            control.senders.CreateSender,
            sender_service_pb2.CreateSenderRequest(
                parent=PARENT,
                address=f"me@{_domain_of(title)}",
                sender=sender_pb2.Sender(display_name=title),
                trusted=title != "alpha",
            ),
        ),
        lambda control, fields: (control.senders.ListSenders, sender_service_pb2.ListSendersRequest(**fields)),
    ),
    "alert rules": Kind(
        lambda control, title: (
            AlertServiceStub(control.channel).CreateAlertRule,
            alert_service_pb2.CreateAlertRuleRequest(
                parent=PARENT,
                alert_rule=alert_pb2.AlertRule(
                    display_name=title, metric=alert_pb2.AlertRule.METRIC_BALANCE, threshold=10
                ),
            ),
        ),
        lambda control, fields: (
            AlertServiceStub(control.channel).ListAlertRules,
            alert_service_pb2.ListAlertRulesRequest(**fields),
        ),
    ),
    "list validations": Kind(
        lambda control, title: (
            control.validations.CreateListValidation,
            list_validation_service_pb2.CreateListValidationRequest(
                parent=PARENT,
                list_validation=list_validation_pb2.ListValidation(display_name=title),
                addresses=["not-an-address"],
            ),
        ),
        lambda control, fields: (
            control.validations.ListListValidations,
            list_validation_service_pb2.ListListValidationsRequest(**fields),
        ),
        by_name=False,
    ),
    "OAuth clients": Kind(
        lambda control, title: (
            control.oauth.CreateOAuthClient,
            oauth_service_pb2.CreateOAuthClientRequest(
                parent=PARENT, oauth_client=oauth_client_pb2.OAuthClient(display_name=title)
            ),
        ),
        lambda control, fields: (control.oauth.ListOAuthClients, oauth_service_pb2.ListOAuthClientsRequest(**fields)),
    ),
    "API keys": Kind(
        lambda control, title: (
            control.credentials.CreateApiKey,
            credential_service_pb2.CreateApiKeyRequest(
                parent=PARENT, api_key=credential_pb2.ApiKey(display_name=title)
            ),
        ),
        lambda control, fields: (
            control.credentials.ListApiKeys,
            credential_service_pb2.ListApiKeysRequest(**fields),
        ),
    ),
}


async def test_every_list_of_numbered_things_is_asked_alike(control: Control) -> None:
    await control.tenant("acme")
    for kind in KINDS.values():
        for title in TITLES:
            await control.call(*kind.make(control, title))
    for name, kind in KINDS.items():
        first, second, third = await kind.listed(control, order_by="number")
        assert [kind.title(item) for item in (first, second, third)] == list(TITLES), name
        assert 0 < first.number < second.number < third.number < 2**31, name
        by_default = await kind.listed(control)
        expected = sorted([first, second, third], key=lambda item: str(item.name))
        assert by_default == (expected if kind.by_name else [third, second, first]), name
        if kind.by_name:
            assert await kind.listed(control, order_by="name") == expected, name
        assert await kind.listed(control, number=second.number) == [second], name
        assert await kind.listed(control, number=third.number + 1000) == [], name
        await the_search_is_for_text(control, name, kind)
        await pages_skip_and_count(control, name, kind)
        for wrong in ({"order_by": "display_name"}, {"skip": -1}, {"skip": 1_000_001}, {"number": -1}):
            assert await control.refused(*kind.listing(control, {"parent": PARENT} | wrong)) is Reason.INVALID_ARGUMENT
        long = {"parent": PARENT, "search": "x" * 321}
        assert await control.refused(*kind.listing(control, long)) is Reason.INVALID_ARGUMENT, name


async def the_search_is_for_text(control: Control, name: str, kind: Kind) -> None:
    """Anywhere in it, whatever the case, and no pattern."""
    assert await kind.titles(control, search="ALPHA") == ["alpha"], name
    assert await kind.titles(control, search="nothing like it") == [], name
    if name != "domains":
        assert await kind.titles(control, search="a sTRAß") == ["Gamma Straße"], name
        assert await kind.titles(control, search="100%_") == ["Beta 100%_x"], name
        assert await kind.titles(control, search="a%a") == [], name
    assert sorted(await kind.titles(control, search="a")) == sorted(TITLES), name


async def pages_skip_and_count(control: Control, name: str, kind: Kind) -> None:
    """Pages follow one another in every order; the total is that of all pages."""
    newest = list(reversed(TITLES))
    assert await kind.titles(control, order_by="number desc", skip=1) == newest[1:], name
    assert await kind.titles(control, order_by="number desc", skip=3) == [], name
    answer = await kind.page(control, order_by="number desc", page_size=1, count_total=True)
    assert answer.total_size == 3, name
    token = answer.next_page_token
    assert await kind.titles(control, order_by="number desc", page_size=1, page_token=token) == newest[1:2], name
    assert await kind.titles(control, order_by="number desc", page_size=1, page_token=token, skip=1) == newest[2:], name
    assert (await kind.page(control, page_size=1)).total_size == 0, name
    assert (await kind.page(control, search="alpha", skip=1, count_total=True)).total_size == 1, name
    # A token is for the list it came from.
    other = {"parent": PARENT, "page_token": token, "order_by": "number", "page_size": 1}
    assert await control.refused(*kind.listing(control, other)) is Reason.INVALID_ARGUMENT, name


async def test_filters_of_single_lists(control: Control) -> None:
    await control.tenant("acme")
    for name in ("domains", "senders", "webhooks"):
        for title in TITLES:
            if name == "senders" and title != "alpha":
                continue  # their domains are verified, which makes them verified
            await control.call(*KINDS[name].make(control, title))
    assert await KINDS["domains"].titles(control, verified=False) == ["alpha"]
    assert len(await KINDS["domains"].listed(control, verified=True)) == 2
    assert await KINDS["senders"].titles(control, verified=False) == ["alpha"]
    assert await KINDS["senders"].titles(control, verified=True) == []
    await control.call(
        control.senders.CreateSender,
        sender_service_pb2.CreateSenderRequest(parent=PARENT, address="you@gamma.example"),
    )
    assert len(await KINDS["senders"].listed(control, verified=True)) == 1
    assert len(await KINDS["webhooks"].listed(control, url="https://example.com/x")) == 3
    assert await KINDS["webhooks"].listed(control, url="https://example.com/") == []


@pytest.mark.each_postgres
async def test_tenants_by_what_they_are(control: Control) -> None:
    await control.tenant("acme")
    for tenant_id, display_name, shares in ("one", "Ünder", True), ("two", "under", False), ("three", "Three", True):
        await control.call(
            control.tenants.CreateTenant,
            tenant_service_pb2.CreateTenantRequest(
                parent=PARENT,
                tenant_id=tenant_id,
                tenant=tenant_pb2.Tenant(
                    display_name=display_name, shares_balance=shares, kind=tenant_pb2.Tenant.KIND_RESELLER
                ),
            ),
        )
    await control.tenant("deep", "one")

    async def found(**fields: Any) -> list[str]:
        return [tenant.name[8:] for tenant in await KINDS["tenants"].listed(control, order_by="number", **fields)]

    assert await found() == ["one", "two", "three"]
    assert await found(include_parent=True) == ["acme", "one", "two", "three"]
    assert await found(include_parent=True, recursive=True) == ["acme", "one", "two", "three", "deep"]
    assert await found(shares_balance=True) == ["one", "three"]
    assert await found(shares_balance=False) == ["two"]
    assert await found(display_name="under") == ["two"]
    assert await found(search="ÜNDER") == ["one"]
    assert await found(kind=tenant_pb2.Tenant.KIND_ACCOUNT, recursive=True) == ["deep"]
    assert await found(kind=tenant_pb2.Tenant.KIND_RESELLER) == ["one", "two", "three"]
    wrong = tenant_service_pb2.ListTenantsRequest(parent=PARENT, kind=tenant_pb2.Tenant.KIND_OPERATOR)
    assert await control.refused(control.tenants.ListTenants, wrong) is Reason.INVALID_ARGUMENT
