"""Templates of tenants. The rules of what is in them are in ``control.model.templates``."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from control.database import Connection, Row
from control.model.selection import Selection
from control.model.templates import Source
from control.store import selecting, tenants
from control.store.tenants import Tenant, not_found
from mta.runtime.refusals import Reason, Refusal

MAX_TEMPLATES = 10_000
"""Of one tenant."""

_COLUMNS = (
    "tenant_id, template_id, number, display_name, subject, html, text, language_code, created_at, updated_at, version"
)
_BRIEF = _COLUMNS.replace("html, text", "'' AS html, '' AS text")
_TABLE = selecting.Table("template", _BRIEF, "template_id", ("template_id", "display_name"))


@dataclass(frozen=True, slots=True)
class Content:
    """What of a template can be changed."""

    display_name: str
    source: Source
    language_code: str


@dataclass(frozen=True, slots=True)
class Template:
    """A template as it is kept."""

    tenant_id: str
    template_id: str
    number: int
    content: Content
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def etag(self) -> str:
        """Changes with each change."""
        return str(self.version)


async def create(connection: Connection, tenant_id: str, template_id: str, content: Content) -> Template:
    """Make a template. ALREADY_EXISTS for an id or display name that is taken, FAILED_PRECONDITION for one too many."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    if await connection.fetchval("SELECT count(*) FROM template WHERE tenant_id = $1", tenant_id) >= MAX_TEMPLATES:
        text = f'tenant "{tenant_id}" has {MAX_TEMPLATES} templates; delete some of them'
        raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"tenant": tenant_id, "maximum": str(MAX_TEMPLATES)})
    taken = "SELECT true FROM template WHERE tenant_id = $1 AND template_id = $2"
    if await connection.fetchval(taken, tenant_id, template_id):
        text = f'there is a template "{template_id}" already'
        raise Refusal(Reason.ALREADY_EXISTS, text, field="template_id", metadata={"template": template_id})
    await _check_display_name(connection, tenant_id, template_id, content.display_name)
    row = await connection.fetchrow(
        "INSERT INTO template (tenant_id, template_id, display_name, subject, html, text, language_code)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_COLUMNS}",
        tenant_id,
        template_id,
        *_values(content),
    )
    assert row is not None, "INSERT RETURNING gives its row"
    return _template(row)


async def id_of(connection: Connection, tenant_id: str, number: int) -> str:
    """The template that has a number. NOT_FOUND if it is none of the tenant's."""
    template_id = await connection.fetchval(
        "SELECT template_id FROM template WHERE number = $1 AND tenant_id = $2", number, tenant_id
    )
    if template_id is None:
        raise not_found("template", str(number))
    return str(template_id)


async def get(connection: Connection, tenant_id: str, template_id: str, *, lock: bool = False) -> Template:
    """A tenant's template; ``lock`` holds changes by others off until the end. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM template WHERE tenant_id = $1 AND template_id = $2{' FOR UPDATE' if lock else ''}",
        tenant_id,
        template_id,
    )
    if row is None:
        raise not_found("template", template_id)
    return _template(row)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a template is found by: that which is not empty."""

    display_name: str = ""
    template_id: str = ""
    number: int = 0


async def find(connection: Connection, line: Sequence[Tenant], wanted: Wanted) -> Template:
    """The template that the first tenant of a line (nearest first) has, or else one of those whose balance it shares.

    NOT_FOUND if there is none.
    """
    payer = tenants.payer(line)
    shared = [tenant.tenant_id for tenant in line[: line.index(payer) + 1]]
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM template WHERE tenant_id = ANY ($1) AND ($2 = '' OR display_name = $2)"
        " AND ($3 = '' OR template_id = $3) AND ($4 = 0 OR number = $4)"
        " ORDER BY array_position($1::text[], tenant_id) LIMIT 1",
        shared,
        wanted.display_name,
        wanted.template_id,
        wanted.number,
    )
    if row is None:
        raise not_found("template", wanted.display_name or wanted.template_id or str(wanted.number))
    return _template(row)


async def page(
    connection: Connection, tenant_id: str, display_name: str, wanted: Selection
) -> tuple[list[Template], int]:
    """A tenant's templates without their parts, and how many match; only the one with ``display_name``, unless that
    is empty.
    """
    where = "tenant_id = $1 AND ($2 = '' OR display_name = $2)"
    rows, total = await selecting.select(connection, _TABLE, wanted, where, tenant_id, display_name)
    return [_template(row) for row in rows], total


async def update(connection: Connection, template: Template, content: Content) -> Template:
    """Change a template that is locked. ALREADY_EXISTS for a display name that is taken."""
    await _check_display_name(connection, template.tenant_id, template.template_id, content.display_name)
    try:
        row = await connection.fetchrow(
            "UPDATE template SET display_name = $3, subject = $4, html = $5, text = $6, language_code = $7,"
            " version = version + 1, updated_at = now() WHERE tenant_id = $1 AND template_id = $2"
            f" RETURNING {_COLUMNS}",
            template.tenant_id,
            template.template_id,
            *_values(content),
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(content.display_name) from error
    assert row is not None, "it is locked"
    return _template(row)


async def delete(connection: Connection, tenant_id: str, template_id: str) -> None:
    """Remove a template. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM template WHERE tenant_id = $1 AND template_id = $2 RETURNING template_id", tenant_id, template_id
    )
    if gone is None:
        raise not_found("template", template_id)


async def _check_display_name(connection: Connection, tenant_id: str, template_id: str, display_name: str) -> None:
    if await connection.fetchval(
        "SELECT true FROM template WHERE tenant_id = $1 AND display_name = $3 AND template_id <> $2",
        tenant_id,
        template_id,
        display_name,
    ):
        raise _taken(display_name)


def _taken(display_name: str) -> Refusal:
    text = f'there is a template named "{display_name}" already'
    return Refusal(Reason.ALREADY_EXISTS, text, field="template.display_name", metadata={"display_name": display_name})


def _values(content: Content) -> tuple[str, str, str, str, str]:
    source = content.source
    return content.display_name, source.subject, source.html, source.text, content.language_code


def _template(row: Row) -> Template:
    return Template(
        tenant_id=row["tenant_id"],
        template_id=row["template_id"],
        number=row["number"],
        content=Content(row["display_name"], Source(row["subject"], row["html"], row["text"]), row["language_code"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
