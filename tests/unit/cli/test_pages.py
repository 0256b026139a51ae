"""The `barua` lines that pages show are commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.main
from typer.core import TyperGroup

from control.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "control" / "README.md", ROOT / "systemd" / "README.md"]


def _lines() -> list[str]:
    blocks = [block for page in PAGES for block in _BLOCK.findall(page.read_text())]
    return [line.strip() for block in blocks for line in block.splitlines() if line.startswith("barua ")]


def test_there_are_some() -> None:
    assert len(_lines()) >= 8


@pytest.mark.parametrize("line", _lines())
def test_the_line_parses(line: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    parent: typer.Context | None = None
    while isinstance(command, TyperGroup):
        parent = typer.Context(command, info_name=command.name, parent=parent)
        _, found, words = command.resolve_command(parent, words)
        assert found is not None
        command = found
    assert command.make_context(command.name, words, parent=parent).params
