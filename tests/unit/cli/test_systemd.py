"""The shipped units are valid, hardened, and start what exists."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[3] / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
MOST = {
    "barua-control.service": 1.2,
    "barua-bootstrap.service": 1.2,
    "barua-node.service": 1.6,
    "barua-bridge.service": 1.6,
    "barua-worker@.service": 1.6,
}
"""The most exposure each unit may have, as `systemd-analyze security` counts it."""

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def test_every_unit_has_a_bound() -> None:
    assert {unit.name for unit in SERVICES} == MOST.keys()


@analyze
def test_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        if unit.suffix in (".service", ".target"):
            # The units name the place of an installation, which need not be there where the tests run.
            text = unit.read_text().replace("/opt/barua/bin/python", sys.executable)
            (tmp_path / unit.name.replace("@.", "@0.")).write_text(text)
    names = [str(unit) for unit in tmp_path.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@analyze
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_exposure_stays_low(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= MOST[unit.name]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_units_start_modules_that_exist(unit: Path) -> None:
    found = re.search(r"^ExecStart=/opt/barua/bin/python -m (\S+)", unit.read_text(), re.MULTILINE)
    assert found
    spec = importlib.util.find_spec(found[1])
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(found[1] + ".__main__") is not None


def test_a_crashed_worker_is_back_soon() -> None:
    text = (UNITS / "barua-worker@.service").read_text()
    assert "Restart=always\nRestartSec=200ms\n" in text
