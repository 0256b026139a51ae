"""The taxonomy of refusals: one table, three renderings, the same reasons as the protos."""

from pathlib import Path

import grpc
import pytest

from barua.errors.v1 import reason_pb2

from mta.runtime.refusals import RENDERINGS, Reason, Refusal


def test_the_reasons_are_those_of_the_protos() -> None:
    names = {name.removeprefix("REASON_") for name in reason_pb2.Reason.DESCRIPTOR.values_by_name}
    assert {reason.value for reason in Reason} == names - {"UNSPECIFIED"}
    assert all(reason.name == reason.value for reason in Reason)


def test_every_reason_has_a_rendering() -> None:
    assert set(RENDERINGS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_renderings_are_of_their_kind(reason: Reason) -> None:
    rendering = RENDERINGS[reason]
    assert rendering.grpc in grpc.StatusCode.__members__
    assert rendering.smtp_code // 100 in (4, 5)
    assert rendering.smtp_enhanced.startswith(f"{rendering.smtp_code // 100}.")
    assert all(part.isdecimal() for part in rendering.smtp_enhanced.split("."))
    assert 400 <= rendering.http < 600


@pytest.mark.parametrize("reason", Reason)
def test_temporary_means_the_same_on_every_wire(reason: Reason) -> None:
    """A client that may come again is told so by each protocol."""
    rendering = RENDERINGS[reason]
    refusal = Refusal(reason, "no")
    assert refusal.temporary is (rendering.smtp_code < 500)
    if rendering.grpc == "UNAVAILABLE":
        assert refusal.temporary
        assert rendering.http == 503
    if rendering.grpc in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND"):
        assert not refusal.temporary


def test_the_comments_of_the_protos_name_the_same_codes() -> None:
    """The proto's comments are what other people's programs go by."""
    text = _proto_text()
    for reason in Reason:
        comment = text[: text.index(f"REASON_{reason.name} =")].rsplit("REASON_", 1)[-1].partition("//")[2]
        rendering = RENDERINGS[reason]
        assert rendering.grpc in comment, reason
        if any(char.isdigit() for char in comment.rpartition(rendering.grpc)[2]):
            assert f"{rendering.smtp_code} {rendering.smtp_enhanced}" in comment, reason


def _proto_text() -> str:
    return Path(__file__).resolve().parents[3].joinpath("protos/barua/errors/v1/reason.proto").read_text()


def test_a_refusal_is_what_it_was_made_of() -> None:
    refusal = Refusal(Reason.RATE_LIMITED, "slow down", field="x", retry_after=1.5, metadata={"a": "b"})
    assert str(refusal) == "slow down"
    assert (refusal.field, refusal.retry_after, refusal.metadata) == ("x", 1.5, {"a": "b"})
    assert Refusal(Reason.INTERNAL, "x").metadata == {}
