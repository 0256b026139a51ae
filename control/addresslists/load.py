"""Reads the built-in lists and the operator's files that add to them.

Errors: ``OptionsError`` for a file of the operator's that cannot be read.
"""

import json
from importlib.resources import files
from pathlib import Path

from control.model.validation import Lists
from mta.runtime.options import OptionsError, ValidationOptions


def load(options: ValidationOptions) -> Lists:
    """The lists in force."""
    return Lists(
        disposable=frozenset([*_built_in("disposable_domains"), *_own(options.disposable_domains_file)]),
        roles=frozenset([*_built_in("role_accounts"), *_own(options.role_accounts_file)]),
        free_mail=frozenset([*_built_in("free_mail_domains"), *_own(options.free_mail_domains_file)]),
        intended=tuple(_built_in("intended_domains")),
    )


def _built_in(name: str) -> list[str]:
    names: list[str] = json.loads(files(__package__).joinpath(f"{name}.json").read_text())["names"]
    return names


def _own(file: str) -> list[str]:
    """The names of a file: one per line; empty lines and those that begin with # are passed over."""
    if not file:
        return []
    try:
        lines = [line.strip().lower() for line in Path(file).read_text().splitlines()]
    except (OSError, UnicodeError) as error:
        raise OptionsError(f"control.validation: {file} cannot be read: {error}") from error
    return [line for line in lines if line and not line.startswith("#")]
