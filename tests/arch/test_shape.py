"""Sizes, names and docstrings."""

import ast

import pytest

from tests.arch import sizes
from tests.arch.source import ROOT, SHIPPED, modules

# A name that says nothing collects everything.
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "misc", "base", "shared", "lib"}
FOLDERS = ("protos", "mta", "control", "api_bridge", "tests", "benchmarks", "systemd")
FILES = {
    "pyproject.toml", "constraints.txt", "README.md", "Makefile", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
    "SECURITY.md", ".gitignore",
}  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "cap"),
    [(sizes.module_sizes, sizes.MODULE_CAP), (sizes.function_sizes, sizes.FUNCTION_CAP)],
    ids=["modules", "functions"],
)
def test_nothing_is_over_its_cap(measured: sizes.Measure, cap: int) -> None:
    over = {name: size for name, size in measured().items() if size > cap and name not in sizes.EXCEPTIONS}
    assert not over


def test_exceptions_are_needed() -> None:
    over = {name for name, size in sizes.module_sizes().items() if size > sizes.MODULE_CAP}
    over |= {name for name, size in sizes.function_sizes().items() if size > sizes.FUNCTION_CAP}
    assert set(sizes.EXCEPTIONS) <= over


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [m.name for m in modules() if m.path.stem in FORBIDDEN or m.path.parent.name in FORBIDDEN] == []


def test_every_module_says_what_it_is() -> None:
    assert [module.name for module in modules() if not ast.get_docstring(module.tree)] == []


def test_every_public_thing_says_what_it_is() -> None:
    silent = [
        f"{module.name}:{node.lineno} {name}"
        for module in modules(*SHIPPED)
        for name, node in _public(module.tree)
        if not ast.get_docstring(node)
    ]
    assert silent == []


def _public(tree: ast.Module) -> list[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    found: list[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]] = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        found.append((node.name, node))
        # Methods of a class with bases mostly implement what the base documents.
        if isinstance(node, ast.ClassDef) and not node.bases:
            found += [
                (f"{node.name}.{method.name}", method)
                for method in node.body
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_")
            ]
    return found


def test_every_package_says_what_it_is_and_every_top_folder_has_a_page() -> None:
    folders = {path.parent for package in SHIPPED for path in (ROOT / package).rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []
    assert [folder for folder in FOLDERS if not (ROOT / folder / "README.md").exists()] == []


def test_the_top_level_holds_what_it_should() -> None:
    built = {"var", "build", "dist"}
    found = {path.name for path in ROOT.iterdir() if path.name not in built and not path.name.endswith(".egg-info")}
    visible = {name for name in found if not name.startswith(".")}
    assert visible == set(FOLDERS) | {name for name in FILES if not name.startswith(".")}
    assert {".gitignore", ".ci"} <= found
