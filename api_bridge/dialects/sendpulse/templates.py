"""Stored bodies: ``/templates`` and ``/template``.

A template has two ids, a text (``id``) and a whole number (``real_id``); both are understood wherever one is. Its body
comes in Base64 and goes out as it is. Strict clients need objects as ``category_info`` and ``tags`` and an address as
``preview``, so they are there, though nothing is behind them: the preview is the template in this API.
"""

import re
from typing import Any

from barua.control.v1 import template_service_pb2
from barua.control.v1.template_pb2 import Template

from api_bridge.dialects.sendpulse import errors, sending, times
from api_bridge.dialects.sendpulse.calls import ME, Call, Paths
from api_bridge.dialects.sendpulse.decoder import Undecodable
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

MAX_NAME = 200
"""Characters; the same bound as control's."""

_ID = re.compile(r"[A-Za-z0-9-]{1,63}")
_SLUG = re.compile(r"[^a-z0-9]+")
_NO_CATEGORY = {"id": 0, "name": "", "meta_description": "", "full_description": "", "code": "", "sort": 0}


async def listed(call: Call) -> Any:
    """GET /templates. ``owner``: ``me`` or absent; there are no templates of ``sendpulse``."""
    if call.parameters.text("owner").lower() not in ("", "me"):
        return []
    request = template_service_pb2.ListTemplatesRequest(parent=ME, page_size=1000, order_by="number")
    return [_row(call, template) async for template in call.ask_pages("templates", "ListTemplates", request)]


async def read(call: Call) -> Any:
    """GET /template/{id}."""
    request = template_service_pb2.GetTemplateRequest(name=_name(call, errors.NO_TEMPLATE_TO_READ))
    template = await _ask(call, "GetTemplate", request, errors.NO_TEMPLATE_TO_READ)
    return {**_row(call, template), "body": template.html}


async def add(call: Call) -> Any:
    """POST /template."""
    template = Template(display_name=_text(call, "name"), html=_body(call), language_code=_language(call))
    request = template_service_pb2.CreateTemplateRequest(parent=ME, template=template, request_id=call.request_id)
    made = await _ask(call, "CreateTemplate", request, errors.NO_TEMPLATE_TO_EDIT)
    return {"result": True, "real_id": made.number}


async def edit(call: Call) -> Any:
    """POST /template/edit/{id}: body, and name and language if they are given."""
    template = Template(name=_name(call, errors.NO_TEMPLATE_TO_EDIT), html=_body(call))
    paths = ["html"]
    if name := _text(call, "name"):
        template.display_name = name
        paths.append("display_name")
    if language := _language(call):
        template.language_code = language
        paths.append("language_code")
    request = template_service_pb2.UpdateTemplateRequest(template=template, request_id=call.request_id)
    request.update_mask.paths.extend(paths)
    changed = await _ask(call, "UpdateTemplate", request, errors.NO_TEMPLATE_TO_EDIT)
    return {"result": True, "real_id": changed.number}


async def _ask(call: Call, method: str, request: Any, missing: errors.Known) -> Any:
    try:
        return await call.ask("templates", method, request)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND:
            raise missing.problem() from None
        if refusal.reason is Reason.ALREADY_EXISTS:
            raise errors.TEMPLATE_NAME_TAKEN.problem() from None
        if refusal.reason is Reason.INVALID_ARGUMENT:
            raise _malformed(refusal) from None
        raise


def _malformed(refusal: Refusal) -> Problem:
    field = (refusal.field or "").rpartition(".")[2]
    if field == "language_code":
        return errors.invalid("lang")
    if field == "display_name":
        return errors.NAME_INVALID.problem()
    return errors.TEMPLATE_BODY_INVALID.problem() if field == "html" else errors.problem(refusal)


def _name(call: Call, missing: errors.Known) -> str:
    id_ = call.in_path("id")
    if not _ID.fullmatch(id_):
        raise missing.problem()
    return f"{ME}/templates/{id_.lower()}"


def _body(call: Call) -> str:
    given = call.parameters.get("body")
    if given is None or given == "":
        raise errors.TEMPLATE_BODY_MISSING.problem()
    try:
        if not isinstance(given, str):
            raise ValueError("not text")
        body = sending.decoded(given).decode()
    except ValueError:
        raise errors.TEMPLATE_BODY_INVALID.problem() from None
    if not body or "\x00" in body:
        raise errors.TEMPLATE_BODY_INVALID.problem()
    return body


def _text(call: Call, name: str) -> str:
    try:
        text = call.parameters.text(name)
    except Undecodable:
        raise errors.invalid(name) from None
    if len(text) > MAX_NAME or not text.isprintable():
        raise errors.invalid(name)
    return text


def _language(call: Call) -> str:
    return _text(call, "lang")


def _row(call: Call, template: Template) -> dict[str, Any]:
    id_ = template.name.rpartition("/")[2]
    name = template.display_name or id_
    return {
        "id": id_,
        "real_id": template.number,
        "lang": template.language_code or "en",
        "name": name,
        "name_slug": _SLUG.sub("-", name.lower()).strip("-"),
        "created": times.shown(template.create_time),
        "full_description": "",
        "is_structure": False,
        "is_structured": False,
        "category": "",
        "category_info": _NO_CATEGORY,
        "tags": {},
        "mark_count": 0,
        "owner": "me",
        "preview": f"{call.request.base_url}template/{id_}",
    }


PATHS: Paths = [
    ("/templates", {"GET": listed}),
    ("/template/{id}", {"GET": read}),
    ("/template", {"POST": add}),
    ("/template/edit/{id}", {"POST": edit}),
]
