"""What every table of the configuration file is made of. See ``options``."""

from msgspec import Struct


class Section(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file: unknown keys are refused, values do not change."""
