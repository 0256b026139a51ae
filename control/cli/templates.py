"""`barua template`: put, list, show, render, remove. Stored messages with variables."""

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import template_pb2
from barua.control.v1 import template_service_pb2 as proto
from barua.control.v1.template_service_pb2_grpc import TemplateServiceStub

from control.cli.output import CliError, as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb
from mta.runtime.refusals import Reason, Refusal

app = typer.Typer(name="template", help="Stored messages with variables.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
TemplateArgument = Annotated[str, typer.Argument(help="Template id, or its number.")]


@verb(app, "put")
async def put(
    session: Session,
    tenant: TenantArgument,
    template: Annotated[str, typer.Argument(help="Template id.")],
    subject: Annotated[str | None, typer.Option(help="Subject.")] = None,
    html: Annotated[Path | None, typer.Option(help="File with the HTML part.")] = None,
    text: Annotated[Path | None, typer.Option(help="File with the text part.")] = None,
    display_name: Annotated[str | None, typer.Option("--name", help="Name for people.")] = None,
) -> None:
    """Make a template, or change one that is there; what is not given stays."""
    given = {
        "subject": subject,
        "html": None if html is None else _read(html),
        "text": None if text is None else _read(text),
        "display_name": display_name,
    }
    values: dict[str, Any] = {path: value for path, value in given.items() if value is not None}
    create = proto.CreateTemplateRequest(
        parent=tenant_name(tenant),
        template_id=template,
        template=template_pb2.Template(**values),
        request_id=str(uuid.uuid4()),
    )
    update = proto.UpdateTemplateRequest(
        template=template_pb2.Template(name=_name(tenant, template), **values),
        update_mask=FieldMask(paths=values),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        stub = TemplateServiceStub(operator.channel)
        try:
            made = await operator.call(stub.UpdateTemplate, update)
        except Refusal as refusal:
            if refusal.reason is not Reason.NOT_FOUND:
                raise
            made = await operator.call(stub.CreateTemplate, create)
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"{last(made.name)} (number {made.number}) is at version {made.version}")


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's templates."""
    async with session.control() as operator:
        stub = TemplateServiceStub(operator.channel)
        request = proto.ListTemplatesRequest(parent=tenant_name(tenant))
        found = [template async for template in operator.pages(stub.ListTemplates, request, "templates")]
    if session.json:
        print_json([as_data(template) for template in found])
        return
    rows = [(last(item.name), item.number, item.display_name, item.subject, moment(item.update_time)) for item in found]
    print_table(["template", "number", "name", "subject", "changed"], rows)


@verb(app, "show")
async def show(session: Session, tenant: TenantArgument, template: TemplateArgument) -> None:
    """Show a template."""
    request = proto.GetTemplateRequest(name=_name(tenant, template))
    async with session.control() as operator:
        found = await operator.call(TemplateServiceStub(operator.channel).GetTemplate, request)
    if session.json:
        print_json(as_data(found))
        return
    print_fields({"name": found.display_name, "subject": found.subject, "variables": ", ".join(found.variables)})
    _print_parts(found.html, found.text)


@verb(app, "render")
async def render(
    session: Session,
    tenant: TenantArgument,
    template: TemplateArgument,
    values: Annotated[list[str] | None, typer.Argument(help="Variables: name=value.")] = None,
) -> None:
    """Put values into a template and print the result."""
    pairs = [value.partition("=") for value in values or []]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise CliError(f'"{wrong[0]}" is no variable; write name=value')
    request = proto.RenderTemplateRequest(
        name=_name(tenant, template), variables={name: value for name, _, value in pairs}
    )
    async with session.control() as operator:
        rendered = await operator.call(TemplateServiceStub(operator.channel).RenderTemplate, request)
    if session.json:
        print_json(as_data(rendered))
        return
    print_fields({"subject": rendered.subject, "missing": ", ".join(rendered.missing_variables)})
    _print_parts(rendered.html, rendered.text)


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, template: TemplateArgument) -> None:
    """Remove a template."""
    request = proto.DeleteTemplateRequest(name=_name(tenant, template), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(TemplateServiceStub(operator.channel).DeleteTemplate, request)
    if session.json:
        print_json({"done": f"removed {template}"})
    else:
        print_line(f"removed {template}")


def _print_parts(html: str, text: str) -> None:
    for title, part in (("html", html), ("text", text)):
        if part:
            print_line("")
            print_line(f"{title}:")
            for line in part.splitlines():
                print_line(line)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{file} is not UTF-8") from error


def _name(tenant: str, template: str) -> str:
    return f"{tenant_name(tenant)}/templates/{template}"
