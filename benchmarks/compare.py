"""Compare two results of one scenario: ``python -m benchmarks.compare OLD.json NEW.json``.

Refuses results of unlike machines or loads, because their figures say nothing about each other. The ratio to Postfix is
what carries over best; rates are printed too.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import IDENTITY


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; the exit status, 1 if the results cannot be compared."""
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    chosen = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text()) for path in (chosen.old, chosen.new))
    unlike = differences(old, new)
    if unlike:
        print("not comparable:\n" + "\n".join(f"  {line}" for line in unlike), file=sys.stderr)
        return 1
    for line in changes(old, new):
        print(line)
    return 0


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why two results cannot be compared, as lines; empty: they can."""
    pairs = [("scenario", old["scenario"], new["scenario"]), ("load", old["load"], new["load"])]
    pairs += [(name, old["machine"].get(name), new["machine"].get(name)) for name in IDENTITY]
    return [f"{name}: {first} and {second}" for name, first, second in pairs if first != second]


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What became of each median, as lines."""
    before = {kind["dkim"]: kind for kind in old["kinds"]}
    lines = []
    for kind in new["kinds"]:
        earlier = before.get(kind["dkim"])
        if earlier is None:
            continue
        title = "with DKIM" if kind["dkim"] else "without DKIM"
        for peer, rate in kind["medians"].items():
            if peer in earlier["medians"]:
                first = earlier["medians"][peer]
                lines.append(f"{title}: {peer} {first:,.0f} -> {rate:,.0f} msg/s ({rate / first - 1:+.1%})")
        if kind["ratio"] and earlier["ratio"]:
            lines.append(f"{title}: ratio {earlier['ratio']} -> {kind['ratio']}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
