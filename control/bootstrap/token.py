"""The operator's token as a file, for the programs that act for the operator."""

from pathlib import Path

from mta.runtime.options import OptionsError


def read_token(path: Path) -> str:
    """The token in a file. Raises OptionsError with a text for the operator."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise OptionsError(
            f"cannot read the operator's token {path}: {error.strerror}; name it with --token-file, "
            "or set BARUA_HOME to the folder of the installation"
        ) from error
    except ValueError as error:
        raise OptionsError(f"{path} does not hold a token") from error
