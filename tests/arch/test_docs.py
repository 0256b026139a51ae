"""Pages say what the code does: options, standards, dependencies, links."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from mta.runtime import options
from tests.arch import pages
from tests.arch.source import ROOT, SHIPPED, modules

_CITATION = re.compile(r"\bRFC[ -]?(\d{3,5})\b")
_NAME = re.compile(r"^[A-Za-z0-9._-]+")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
_TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")
STANDARDS = ROOT / "mta" / "doc" / "standards.md"
SKIPPED = {".venv", "var", "build", "dist", ".git", ".hypothesis"}


def test_generated_pages_are_in_step() -> None:
    assert pages.stale() == []


def _cited() -> dict[str, str]:
    """RFC numbers in code and protos, each with one place."""
    texts = {module.name: module.text for module in modules(*SHIPPED)}
    texts |= {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "protos" / "barua").rglob("*.proto")}
    return {number: name for name, text in texts.items() for number in _CITATION.findall(text)}


def _rows() -> dict[str, str]:
    """RFC numbers of the page, with what it says of each: yes, partial or no."""
    rows = re.findall(r"^\| *(?:RFC )?(\d{3,5}) *\|[^|]*\| *(\w+) *\|", STANDARDS.read_text(), re.MULTILINE)
    return dict(rows)


def test_every_cited_rfc_is_on_the_standards_page() -> None:
    assert {number: place for number, place in _cited().items() if number not in _rows()} == {}


def test_every_standard_we_claim_is_cited_where_it_is_kept() -> None:
    assert set(_rows().values()) <= {"yes", "partial", "no"}
    assert {number for number, kept in _rows().items() if kept != "no"} - _cited().keys() == set()


def test_citations_have_one_form() -> None:
    loose = re.compile(r"\b(?:rfc(?!822)\d|RFC\d|RFC-\d|Rfc \d)")
    found = [f"{module.name}: {match[0]}" for module in modules(*SHIPPED) for match in loose.finditer(module.text)]
    assert found == []


def _project() -> dict[str, list[str]]:
    """Dependencies by group; "" are those at run time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: [_name(text) for text in texts] for group, texts in groups.items()}


def _name(text: str) -> str:
    found = _NAME.match(text)
    assert found is not None, text
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_every_runtime_dependency_has_a_line_in_the_table() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    listed = {_name(name) for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    groups = _project()
    assert set(groups[""]) | set(groups["embedded"]) | set(groups["demo"]) <= listed


def test_constraints_pin_everything_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not _PIN.fullmatch(line)] == []
    pinned = {_name(line) for line in lines}
    assert {name for names in _project().values() for name in names} <= pinned


def test_the_configurations_in_pages_load(tmp_path: Path) -> None:
    examples = [text for page in _pages() for text in _TOML.findall(page.read_text())]
    assert examples
    for example in examples:
        file = tmp_path / "example.toml"
        file.write_text(example)
        options.load(file, {})


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in _pages()
        for target in _LINK.findall(page.read_text())
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    assert broken == []


def _pages() -> Iterator[Path]:
    for page in ROOT.rglob("*.md"):
        if not SKIPPED & set(page.relative_to(ROOT).parts):
            yield page


def test_make_lists_its_targets() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()
    assert {"run", "test", "test-long", "check", "bench", "help"} <= set(phony)
    assert [target for target in phony if not re.search(rf"^{target}:.*## ", text, re.MULTILINE)] == []
