"""Templates of an account, which its sends name by id or name. Places for values are ``{{name}}`` and ``{{.name}}``."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import template_pb2, template_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Count, Deleted
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from mta.runtime.refusals import Reason, Refusal

WHAT = "Template"
TEMPLATE_BYTES = 3 * 1024 * 1024
"""Of a body: two parts of 1 MiB, as control takes them, and their escapes."""
READS_AT_ONCE = 4
"""Templates that are read at once for one list."""
MAX_COPIES = 100
"""Names that are tried for a copy."""

_FIELDS = {
    "template": "template",
    "template.display_name": "name",
    "template.subject": "subject",
    "template.html": "html",
    "template.text": "text",
}
_Text = str | None
_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class TemplateChange(Struct):
    """Body of update. ``template`` is the original editor's own form of the HTML, and ``memberId`` a person: without
    effect, but for a ``template`` without any ``html`` and ``text``."""

    name: _Name | None = None
    html: _Text = None
    text: _Text = None
    subject: _Text = None
    template: _Text = None
    memberId: int | str | None = None  # noqa: N815  # the name in the JSON


class NewTemplate(TemplateChange, kw_only=True):
    """Body of create."""

    name: _Name


class Template(Struct):
    """A template."""

    id: int
    name: str
    subject: str
    html: str
    text: str
    template: str
    created: int
    updated: int
    createdBy: None  # noqa: N815
    updatedBy: None  # noqa: N815


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/account/template", "/account/template/{template_id}", Key.ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_templates",
            "Templates of the account, the oldest first.",
            _list,
            key,
            query=(*paging(most=100), SEARCH),
            answer=list[Template],
        ),
        Operation(
            "POST",
            path,
            "create_template",
            "Make a template.",
            _create,
            key,
            body=NewTemplate,
            answer=Template,
            failures=(403, 409),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", f"{path}/count", "count_templates", "Count the templates.", _count, key, answer=Count),
        Operation("GET", one, "get_template", "Read a template.", _get, key, answer=Template),
        Operation(
            "PUT",
            one,
            "update_template",
            "Change a template; what is not given stays.",
            _update,
            key,
            body=TemplateChange,
            answer=Template,
            failures=(403,),
        ),
        Operation("DELETE", one, "delete_template", "Delete a template.", _delete, key, answer=Deleted),
        Operation("POST", f"{one}/copy", "copy_template", "Make a copy of a template.", _copy, key, answer=Template),
    ]


async def _list(call: Call) -> list[Template]:
    request = template_service_pb2.ListTemplatesRequest(
        parent="tenants/me", search=call.query["search"] or "", order_by="number"
    )
    listed = await call.page("templates", "ListTemplates", request)
    turns = asyncio.Semaphore(READS_AT_ONCE)

    async def whole(found: template_pb2.Template) -> Template | None:
        async with turns:
            try:
                return _template(await _asked(call, "GetTemplate", _name_request(found.number)))
            except Refusal as refusal:
                if refusal.reason is Reason.NOT_FOUND:
                    return None  # it was deleted meanwhile
                raise

    return [template for template in await asyncio.gather(*map(whole, listed)) if template is not None]


async def _create(call: Call) -> Template:
    body = await call.body(NewTemplate, TEMPLATE_BYTES)
    template, _ = _wanted(body)
    request = template_service_pb2.CreateTemplateRequest(
        parent="tenants/me", template=template, request_id=idempotency.request_id(call.request)
    )
    return _template(await answers.ask(call, "templates", "CreateTemplate", request, _FIELDS))


async def _count(call: Call) -> Count:
    request = template_service_pb2.ListTemplatesRequest(parent="tenants/me")
    return await answers.total(call, "templates", "ListTemplates", request)


async def _get(call: Call) -> Template:
    return _template(await _read(call))


async def _update(call: Call) -> Template:
    name = _name(call)
    template, paths = _wanted(await call.body(TemplateChange, TEMPLATE_BYTES))
    if not paths:
        return _template(await _read(call))
    template.name = name
    request = template_service_pb2.UpdateTemplateRequest(template=template)
    request.update_mask.paths.extend(paths)
    return _template(await _known(call, "UpdateTemplate", request))


async def _delete(call: Call) -> Deleted:
    number = call.number("template_id", WHAT)
    await _known(call, "DeleteTemplate", template_service_pb2.DeleteTemplateRequest(name=_name(call)))
    return Deleted(number, "Template deleted.")


async def _copy(call: Call) -> Template:
    found = await _read(call)
    for number in range(1, MAX_COPIES + 1):
        mark = " (copy)" if number == 1 else f" (copy {number})"
        copy = template_pb2.Template(
            display_name=found.display_name[: 200 - len(mark)] + mark,
            subject=found.subject,
            html=found.html,
            text=found.text,
            language_code=found.language_code,
        )
        request = template_service_pb2.CreateTemplateRequest(
            parent="tenants/me", template=copy, request_id=str(uuid.uuid4())
        )
        try:
            return _template(await _asked(call, "CreateTemplate", request))
        except Refusal as refusal:
            if refusal.reason is not Reason.ALREADY_EXISTS:
                raise
    raise errors.exists(f"There are {MAX_COPIES} copies of this template already.", "name")


async def _read(call: Call) -> template_pb2.Template:
    return await _known(call, "GetTemplate", _name_request(call.number("template_id", WHAT)))


async def _known(call: Call, method: str, request: object) -> template_pb2.Template:
    """As ``_asked``, where NOT_FOUND means the template of the path. Raises Problem."""
    try:
        return await _asked(call, method, request)
    except Refusal as refusal:
        raise answers.of_path(call, WHAT, refusal) from None


async def _asked(call: Call, method: str, request: object) -> template_pb2.Template:
    template: template_pb2.Template = await answers.ask(call, "templates", method, request, _FIELDS)
    return template


def _name_request(number: int) -> template_service_pb2.GetTemplateRequest:
    return template_service_pb2.GetTemplateRequest(name=f"tenants/me/templates/{number}")


def _name(call: Call) -> str:
    return f"tenants/me/templates/{call.number('template_id', WHAT)}"


def _wanted(body: TemplateChange) -> tuple[template_pb2.Template, list[str]]:
    """The template with what the body says, and the names of those fields."""
    template = template_pb2.Template()
    given = {"display_name": body.name, "subject": body.subject, "html": body.html, "text": body.text}
    if body.template and not body.html and not body.text:
        given["html"] = body.template
    paths = [field for field, text in given.items() if text is not None]
    for field in paths:
        setattr(template, field, given[field])
    template.display_name = template.display_name.strip()
    return template, paths


def _template(found: template_pb2.Template) -> Template:
    return Template(
        id=found.number,
        name=found.display_name,
        subject=found.subject,
        html=found.html,
        text=found.text,
        template="",
        created=times.nanoseconds(found.create_time),
        updated=times.nanoseconds(found.update_time),
        createdBy=None,
        updatedBy=None,
    )
