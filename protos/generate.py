"""Regenerate the committed stubs in ``protos/gen`` from the .proto files beside this script.

Run ``python protos/generate.py`` (or ``make protos``) after every change of a .proto file and commit both.
``python protos/generate.py DIR`` writes to DIR instead; ``--check`` writes nothing, names what is out of step and ends
with status 1. ``make check`` and a test run the latter.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def generate(target: Path) -> None:
    """Write modules, gRPC stubs and their type files for every .proto file to ``target``."""
    # The plugins are beside the interpreter, which need not be on the path.
    programs = Path(sys.executable).parent
    compile_(
        *(f"--plugin={plugin}={programs / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    )
    for folder in {path.parent for path in target.rglob("*_pb2.py")}:
        (folder / "__init__.py").touch()
    (target / "barua" / "__init__.py").touch()
    for area in (target / "barua").iterdir():
        if area.is_dir() and area.name != "__pycache__":
            (area / "__init__.py").touch()


def compile_(*outputs: str) -> None:
    """Run protoc on every .proto file. Ends the program if it fails."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "barua").rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--proto_path={Path(status_pb2.__file__).parents[2]}",
            *outputs,
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def differences() -> list[str]:
    """Files of ``protos/gen`` that are not what the .proto files give, as readable lines; empty: in step."""
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        generate(fresh)
        wanted, found = _contents(fresh), _contents(ROOT / "gen")
    return sorted(
        [f"{path}: missing" for path in wanted.keys() - found.keys()]
        + [f"{path}: no .proto file makes it" for path in found.keys() - wanted.keys()]
        + [f"{path}: differs" for path in wanted.keys() & found.keys() if wanted[path] != found[path]]
    )


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for suffix in ("*.py", "*.pyi") for path in folder.rglob(suffix))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main(arguments: list[str]) -> int:
    """Do what the command line asks for; the exit status."""
    if arguments != ["--check"]:
        generate(Path(arguments[0]) if arguments else ROOT / "gen")
        return 0
    lines = differences()
    for line in lines:
        print(f"protos/gen/{line}")
    print("stubs differ: run `make protos` and commit the result" if lines else "stubs are in step with the protos")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
