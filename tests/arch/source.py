"""The source files of this repository, read and parsed once."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mta", "control", "api_bridge", "tests", "benchmarks")
SHIPPED = ("mta", "control", "api_bridge")


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Path from the root of the repository, as people write it."""
        return str(self.path.relative_to(ROOT))

    def imports(self) -> list[tuple[str, int]]:
        """Absolute names of imported modules with their lines, wherever in the file they are imported."""
        found: list[tuple[str, int]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: write imports in full"
                found.append((node.module or "", node.lineno))
        return found


@cache
def modules(*packages: str) -> tuple[Module, ...]:
    """All modules of some packages (or folders below them); no packages: of all."""
    found = [path for package in packages or PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple(Module(path, text := path.read_text(), ast.parse(text, str(path))) for path in found)
