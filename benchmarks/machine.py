"""Facts about the machine, without which a figure means nothing."""

import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Facts that have to agree before two results are compared.
IDENTITY = ("cpu", "cores", "memory_mb", "kernel", "python", "file_system")
_SYNC_ROUNDS = 50


def facts(folder: Path) -> dict[str, Any]:
    """What the figures depend on; ``folder`` is where the queues are."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(folder),
        "fdatasync_ms": round(_sync_seconds(folder) * 1000, 3),
        "load_before": os.getloadavg()[0],
        "commit": _commit(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def _sync_seconds(folder: Path) -> float:
    """Median time to append 4 KB and have it on the disk."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        times = []
        for _ in range(_SYNC_ROUNDS):
            start = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times)


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") or "none"
    return f"{commit}-dirty" if git("status", "--porcelain") else commit
