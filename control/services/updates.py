"""Updates of resources: field masks (AIP-134, AIP-161) and etags (AIP-154)."""

from collections.abc import Collection
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from control.model.fields import invalid
from mta.runtime.refusals import Reason, Refusal


def paths_of(mask: FieldMask, resource: Any, field: str, updatable: Collection[str]) -> frozenset[str]:
    """The fields that an update is about.

    An empty mask means the fields that are set in ``resource``, "*" all that can be updated. ``field`` is the request's
    field that holds the resource. INVALID_ARGUMENT for a path that does not exist or cannot be updated, and for a
    request that would change nothing.
    """
    if list(mask.paths) == ["*"]:
        return frozenset(updatable)
    paths = list(mask.paths) or [
        descriptor.name for descriptor, _ in resource.ListFields() if descriptor.name in updatable
    ]
    for path in paths:
        if path not in updatable:
            known = ", ".join(sorted(updatable))
            raise invalid(
                "update_mask", f'update_mask names "{path[:100]}", which cannot be updated; what can: {known}'
            )
    if not paths:
        raise invalid("update_mask", f"nothing to update: set a field of {field} or name it in update_mask")
    return frozenset(paths)


def check_etag(given: str, current: str, field: str = "etag") -> None:
    """Refuse a stale etag with STALE_ETAG; without one the last writer wins."""
    if given and given != current:
        message = "etag is not the current one: somebody changed the resource; read it again and then write"
        raise Refusal(Reason.STALE_ETAG, message, field=field, metadata={"etag": given[:100]})
