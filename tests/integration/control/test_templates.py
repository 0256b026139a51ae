"""Templates over gRPC."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import template_pb2, template_service_pb2, tenant_pb2, tenant_service_pb2

from mta.runtime.refusals import Reason
from tests.integration.control.harness import PASSWORD, Control, basic, new_id

TEMPLATE = template_pb2.Template(
    display_name="Welcome", subject="Hello {{name}}", html="<p>{{name}} {{{raw}}}</p>", text="{{.name}} {{other}}"
)


def creation(template_id: str = "welcome", **fields: Any) -> template_service_pb2.CreateTemplateRequest:
    """A request for the tenant's template."""
    template = template_pb2.Template()
    template.CopyFrom(TEMPLATE)
    for name, value in fields.items():
        setattr(template, name, value)
    return template_service_pb2.CreateTemplateRequest(
        parent="tenants/me", template_id=template_id, template=template, request_id=new_id()
    )


@pytest.mark.each_postgres
async def test_a_template_is_kept_changed_rendered_and_removed(control: Control) -> None:
    await control.tenant("tenant")
    me, service = basic("tenant"), control.templates
    request = creation()
    made = await control.call(service.CreateTemplate, request, me)
    assert await control.call(service.CreateTemplate, request, me) == made
    assert (made.name, made.version, list(made.variables)) == (
        "tenants/tenant/templates/welcome",
        1,
        ["name", "raw", "other"],
    )
    for name in (made.name, f"tenants/me/templates/{made.number}"):
        get = template_service_pb2.GetTemplateRequest(name=name)
        assert await control.call(service.GetTemplate, get, me) == made
    render = template_service_pb2.RenderTemplateRequest(name=made.name, variables={"name": "<Ann>", "raw": "<br>"})
    rendered = await control.call(service.RenderTemplate, render, me)
    assert (rendered.subject, rendered.html, rendered.text) == ("Hello <Ann>", "<p>&lt;Ann&gt; <br></p>", "<Ann> ")
    assert list(rendered.missing_variables) == ["other"]
    update = template_service_pb2.UpdateTemplateRequest(
        template=template_pb2.Template(name=made.name, subject="Bye", etag=made.etag),
        update_mask=FieldMask(paths=["subject", "text"]),
    )
    changed = await control.call(service.UpdateTemplate, update, me)
    assert (changed.subject, changed.text, changed.html, changed.version) == ("Bye", "", made.html, 2)
    assert await control.refused(service.UpdateTemplate, update, me) is Reason.STALE_ETAG
    delete = template_service_pb2.DeleteTemplateRequest(name=made.name)
    await control.call(service.DeleteTemplate, delete, me)
    assert await control.refused(service.DeleteTemplate, delete, me) is Reason.NOT_FOUND


async def test_templates_are_listed_without_their_parts(control: Control) -> None:
    await control.tenant("tenant")
    me, service = basic("tenant"), control.templates
    for number in range(3):
        await control.call(service.CreateTemplate, creation(f"t{number}", display_name=f"Name {number}"), me)
    listing = template_service_pb2.ListTemplatesRequest(parent="tenants/me", page_size=2)
    first = await control.call(service.ListTemplates, listing, me)
    listing.page_token = first.next_page_token
    second = await control.call(service.ListTemplates, listing, me)
    found = [*first.templates, *second.templates]
    assert [template.name.rpartition("/")[2] for template in found] == ["t0", "t1", "t2"]
    assert not any(template.html or template.text for template in found)
    named = template_service_pb2.ListTemplatesRequest(parent="tenants/me", display_name="Name 1")
    answer = await control.call(service.ListTemplates, named, me)
    assert [template.display_name for template in answer.templates] == ["Name 1"]


async def test_what_cannot_be_a_template_is_refused(control: Control) -> None:
    await control.tenant("tenant")
    me, service = basic("tenant"), control.templates
    made = await control.call(service.CreateTemplate, creation(""), me)
    assert made.name.rpartition("/")[2].startswith("t")
    for request, reason in (
        (creation("1abc"), Reason.INVALID_ARGUMENT),
        (creation("Abc"), Reason.INVALID_ARGUMENT),
        (creation(html="", text=""), Reason.INVALID_ARGUMENT),
        (creation(subject="x" * 999), Reason.INVALID_ARGUMENT),
        (creation(html="x" * (1024 * 1024 + 1)), Reason.INVALID_ARGUMENT),
        (creation(text="a\0b"), Reason.INVALID_ARGUMENT),
        (creation(display_name="a\nb"), Reason.INVALID_ARGUMENT),
        (creation(), Reason.ALREADY_EXISTS),
        (creation(made.name.rpartition("/")[2], display_name="Other"), Reason.ALREADY_EXISTS),
    ):
        assert await control.refused(service.CreateTemplate, request, me) is reason, request
    other = await control.call(service.CreateTemplate, creation("other", display_name=""), me)
    assert other.display_name == "other"
    update = template_service_pb2.UpdateTemplateRequest(
        template=template_pb2.Template(name=other.name, display_name="Welcome")
    )
    assert await control.refused(service.UpdateTemplate, update, me) is Reason.ALREADY_EXISTS
    large = template_service_pb2.RenderTemplateRequest(name=other.name, variables={"name": "x" * (1024 * 1024)})
    assert await control.refused(service.RenderTemplate, large, me) is Reason.INVALID_ARGUMENT
    nothing = template_service_pb2.GetTemplateRequest(name="tenants/me/templates/999")
    assert await control.refused(service.GetTemplate, nothing, me) is Reason.NOT_FOUND


async def test_a_tenant_that_shares_a_balance_uses_the_templates_of_the_one_that_pays(control: Control) -> None:
    await control.tenant("account", kind=tenant_pb2.Tenant.KIND_RESELLER)
    for name, shares in (("sharing", True), ("paying", False)):
        tenant = tenant_pb2.Tenant(shares_balance=shares)
        login = tenant_service_pb2.InitialLogin(username=name, password=PASSWORD)
        making = tenant_service_pb2.CreateTenantRequest(
            parent="tenants/account", tenant_id=name, tenant=tenant, initial_login=login
        )
        await control.call(control.tenants.CreateTenant, making)
    service, me = control.templates, basic("account")
    above = await control.call(service.CreateTemplate, creation(), me)
    by: list[dict[str, Any]] = [{"display_name": "Welcome"}, {"template_id": "welcome"}, {"number": above.number}]
    for fields in by:
        wanted = template_service_pb2.FindTemplateRequest(parent="tenants/sharing", **fields)
        assert await control.call(service.FindTemplate, wanted, me) == above
        # The tenant itself does not see the one above.
        assert await control.call(service.FindTemplate, wanted, basic("sharing")) == above
        wanted.parent = "tenants/paying"
        assert await control.refused(service.FindTemplate, wanted, me) is Reason.NOT_FOUND
    request = creation("own", subject="nearer")
    request.parent = "tenants/sharing"
    own = await control.call(service.CreateTemplate, request)
    wanted = template_service_pb2.FindTemplateRequest(parent="tenants/sharing", display_name="Welcome")
    assert await control.call(service.FindTemplate, wanted, me) == own
    wrong: list[dict[str, Any]] = [{}, {"display_name": "a", "number": 1}]
    for fields in wrong:
        wanted = template_service_pb2.FindTemplateRequest(parent="tenants/me", **fields)
        assert await control.refused(service.FindTemplate, wanted, me) is Reason.INVALID_ARGUMENT
