"""Line counts of modules and functions: caps that a test enforces, aims that ``python -m tests.arch.sizes`` reports.

A function counts from its ``def`` to its last line, docstring included.
"""

import ast
from collections.abc import Callable, Iterator

from tests.arch.source import Module, modules

MODULE_CAP, MODULE_AIM = 600, 400
FUNCTION_CAP, FUNCTION_AIM = 60, 25

Measure = Callable[[], dict[str, int]]

# Longer than the cap for a reason: "path" or "path:function" -> the reason in one line.
EXCEPTIONS: dict[str, str] = {}


def module_sizes() -> dict[str, int]:
    """Lines of each module."""
    return {module.name: module.text.count("\n") for module in modules()}


def function_sizes() -> dict[str, int]:
    """Lines of each function, ``path:function``."""
    return {
        f"{module.name}:{name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in modules()
        for name, node in functions(module)
    }


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods of a module with their dotted names."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + child.name, child
            inner = f"{prefix}{child.name}." if isinstance(child, _SCOPES) else prefix
            yield from walk(child, inner)

    return walk(module.tree, "")


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def main() -> None:
    """Print what is over its aim, longest first."""
    for title, sizes, aim in (
        ("modules", module_sizes(), MODULE_AIM),
        ("functions", function_sizes(), FUNCTION_AIM),
    ):
        over = sorted(((size, name) for name, size in sizes.items() if size > aim), reverse=True)
        print(f"{len(over)} of {len(sizes)} {title} are over the aim of {aim} lines")
        for size, name in over:
            print(f"{size:6} {name}")


if __name__ == "__main__":
    main()
