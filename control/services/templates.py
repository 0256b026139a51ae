"""TemplateService: stored messages with variables."""

from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import template_pb2, template_service_pb2
from barua.control.v1.template_service_pb2_grpc import TemplateServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import apikeys, fields, names, templates
from control.model.caller import acting_for_platform
from control.model.fields import invalid
from control.model.templates import Source
from control.services.listing import listing_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.store import templates as store
from control.store import tenants
from control.store.templates import Content, Template

_Context = grpc.aio.ServicerContext[Any, Any]

UPDATABLE = ("display_name", "subject", "html", "text", "language_code")


class TemplateServicer(TemplateServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations

    async def CreateTemplate(
        self, request: template_service_pb2.CreateTemplateRequest, context: _Context
    ) -> template_pb2.Template:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        template_id = _template_id(request.template_id)
        content = _changed(Content("", Source("", "", ""), ""), request.template, frozenset(UPDATABLE))
        if not content.display_name:
            content = replace(content, display_name=template_id)

        async def effect(connection: Connection) -> template_pb2.Template:
            await tenants.visible(connection, me, tenant_id)
            return _to_proto(await store.create(connection, tenant_id, template_id, content))

        return await self._mutations.run(request, template_pb2.Template, effect)

    async def GetTemplate(
        self, request: template_service_pb2.GetTemplateRequest, context: _Context
    ) -> template_pb2.Template:
        """See the proto."""
        return _to_proto(await self._read(request.name))

    async def ListTemplates(
        self, request: template_service_pb2.ListTemplatesRequest, context: _Context
    ) -> template_service_pb2.ListTemplatesResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        display_name = fields.text(request.display_name, "display_name")
        listing = listing_of(request, tenant_id, display_name)

        async def read(connection: Connection) -> tuple[list[Template], int]:
            await tenants.visible(connection, me, tenant_id)
            return await store.page(connection, tenant_id, display_name, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda template: template.template_id)
        return template_service_pb2.ListTemplatesResponse(
            templates=map(_to_proto, shown), next_page_token=token, total_size=total
        )

    async def UpdateTemplate(
        self, request: template_service_pb2.UpdateTemplateRequest, context: _Context
    ) -> template_pb2.Template:
        """See the proto."""
        name = _parse(request.template.name, "template.name")
        paths = paths_of(request.update_mask, request.template, "template", UPDATABLE)

        async def effect(connection: Connection) -> template_pb2.Template:
            found = await _find(connection, name, lock=True)
            check_etag(request.template.etag, found.etag, "template.etag")
            content = _changed(found.content, request.template, paths)
            if not content.display_name:
                content = replace(content, display_name=found.template_id)
            return _to_proto(await store.update(connection, found, content))

        return await self._mutations.run(request, template_pb2.Template, effect)

    async def DeleteTemplate(self, request: template_service_pb2.DeleteTemplateRequest, context: _Context) -> Empty:
        """See the proto."""
        name = _parse(request.name)

        async def effect(connection: Connection) -> Empty:
            found = await _find(connection, name)
            await store.delete(connection, found.tenant_id, found.template_id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def FindTemplate(
        self, request: template_service_pb2.FindTemplateRequest, context: _Context
    ) -> template_pb2.Template:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        wanted = store.Wanted(
            fields.text(request.display_name, "display_name"),
            fields.text(request.template_id, "template_id"),
            request.number,
        )
        if sum(map(bool, (wanted.display_name, wanted.template_id, wanted.number))) != 1:
            raise invalid("display_name", "exactly one of display_name, template_id and number is needed")

        async def read(connection: Connection) -> Template:
            return await store.find(connection, await tenants.line(connection, tenant_id), wanted)

        await self._database.transact(lambda connection: tenants.visible(connection, me, tenant_id))
        # Whose balance is shared is above what the caller sees.
        with acting_for_platform():
            return _to_proto(await self._database.transact(read))

    async def RenderTemplate(
        self, request: template_service_pb2.RenderTemplateRequest, context: _Context
    ) -> template_service_pb2.RenderTemplateResponse:
        """See the proto."""
        found = await self._read(request.name)
        rendered = templates.render(found.content.source, request.variables)
        return template_service_pb2.RenderTemplateResponse(
            subject=rendered.subject, html=rendered.html, text=rendered.text, missing_variables=rendered.missing
        )

    async def _read(self, name: str) -> Template:
        parsed = _parse(name)
        return await self._database.transact(lambda connection: _find(connection, parsed))


def _template_id(value: str) -> str:
    if not value:
        return f"t{apikeys.random_name(12)}"
    if not names.is_tenant_id(value) or value[0].isdigit():
        raise invalid("template_id", 'template_id must be 1 to 63 of a-z, 0-9 and "-", beginning with a letter')
    return value


def _changed(content: Content, given: template_pb2.Template, paths: frozenset[str]) -> Content:
    """The content with the fields at ``paths`` as given, checked."""
    if "display_name" in paths:
        content = replace(content, display_name=fields.text(given.display_name, "template.display_name"))
    if "language_code" in paths:
        content = replace(content, language_code=fields.text(given.language_code, "template.language_code", 35))
    parts = {part: getattr(given, part) for part in ("subject", "html", "text") if part in paths}
    content = replace(content, source=replace(content.source, **parts))
    templates.check(content.source)
    return content


def _parse(name: str, field: str = "name") -> names.ChildName:
    return names.child(name, "templates", caller().tenant_id, field)


async def _find(connection: Connection, name: names.ChildName, *, lock: bool = False) -> Template:
    """The template of a name, whose last part is its id or number."""
    await tenants.visible(connection, caller().tenant_id, name.tenant_id)
    template_id = name.id
    if template_id.isascii() and template_id.isdecimal() and len(template_id) < 10:
        template_id = await store.id_of(connection, name.tenant_id, int(template_id))
    return await store.get(connection, name.tenant_id, template_id, lock=lock)


def _to_proto(template: Template) -> template_pb2.Template:
    content = template.content
    return template_pb2.Template(
        name=f"tenants/{template.tenant_id}/templates/{template.template_id}",
        display_name=content.display_name,
        subject=content.source.subject,
        html=content.source.html,
        text=content.source.text,
        language_code=content.language_code,
        variables=templates.variables(content.source),
        create_time=to_proto(template.created_at),
        update_time=to_proto(template.updated_at),
        etag=template.etag,
        number=template.number,
        version=template.version,
    )
