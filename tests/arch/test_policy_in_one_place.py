"""Rules that live in one module per direction stay there."""

import ast

from tests.arch.source import modules

# What turns reply codes into outcomes, facts into rejections, and reasons into replies.
JUDGES = {"mta/delivery/classify.py", "mta/ingress/checks.py", "mta/runtime/refusals.py"}
# A session must know whether a reply lets it go on; what a refusal means for a recipient is not its business.
LANGUAGE = "mta/smtp/"
BOUNDS = {400, 499, 500, 599}


def test_nobody_else_compares_reply_codes_with_400_or_500() -> None:
    found = [
        f"{module.name}:{node.lineno} {ast.unparse(node)}"
        for module in modules("mta")
        if module.name not in JUDGES and not module.name.startswith(LANGUAGE)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Compare) and _is_about_reply_codes(node)
    ]
    assert found == []


def _is_about_reply_codes(node: ast.Compare) -> bool:
    operands = [node.left, *node.comparators]
    numbers = {operand.value for operand in operands if isinstance(operand, ast.Constant)}
    if not any("code" in ast.unparse(operand).lower() for operand in operands):
        return False
    by_class = any(
        isinstance(operand, ast.BinOp) and isinstance(operand.op, ast.FloorDiv) and ast.unparse(operand.right) == "100"
        for operand in operands
    )
    return bool(numbers & BOUNDS) or (by_class and bool(numbers & {4, 5}))


def test_queues_decide_without_waiting() -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    found = [
        f"{module.name}:{getattr(node, 'lineno', 0)}"
        for module in modules("mta/queues")
        if module.path.name != "manager.py"
        for node in ast.walk(module.tree)
        if isinstance(node, waiting)
    ]
    assert found == []
