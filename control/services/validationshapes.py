"""Validations as protos."""

from barua.control.v1.list_validation_pb2 import AddressValidation
from barua.control.v1.list_validation_pb2 import ListValidation as ListValidationProto

from control.model.validation import Judged
from control.services.suppressionshapes import REASON_PROTOS, SCOPE_PROTOS
from control.services.timestamps import to_proto
from control.store.listvalidations import ListValidation

_SHOWN = 320
"""Characters kept of a text that is no address."""


def to_validation(judged: Judged, line: int) -> AddressValidation:
    """The result for one address."""
    proto = AddressValidation(
        address=judged.parsed.given[:_SHOWN],
        canonical_address=judged.parsed.canonical,
        verdict=judged.verdict.value,  # type: ignore[arg-type]
        findings=[finding.value for finding in judged.findings],  # type: ignore[misc]
        explanation=judged.explanation,
        suggestion=judged.suggestion,
        free_mail=judged.free_mail,
        line=line,
    )
    if judged.facts is not None:
        proto.mail_hosts.extend(judged.facts.hosts)
    if judged.held is not None:
        proto.suppression_reason = REASON_PROTOS[judged.held.reason]
        proto.suppression_scope = SCOPE_PROTOS[judged.held.scope]
    if judged.last is not None:
        proto.last_outcome_time.FromDatetime(judged.last.time)
        proto.last_reply = judged.last.reply
    return proto


def to_list(found: ListValidation) -> ListValidationProto:
    """A list with its progress."""
    deliverable, risky, undeliverable, unknown = found.verdicts
    return ListValidationProto(
        name=f"tenants/{found.tenant_id}/listValidations/{found.validation_id}",
        display_name=found.display_name,
        stream=found.stream,
        state=found.state.value,  # type: ignore[arg-type]
        address_count=found.address_count,
        checked_count=found.checked_count,
        deliverable_count=deliverable,
        risky_count=risky,
        undeliverable_count=undeliverable,
        unknown_count=unknown,
        create_time=to_proto(found.created_at),
        finish_time=to_proto(found.finished_at),
        created_by=found.created_by,
        number=found.number,
    )
