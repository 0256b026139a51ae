"""When an alert begins and ends, and which rules are possible."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.model import alerts
from control.model.alerts import Condition, Metric, Step
from control.model.events import EventKind
from mta.runtime.refusals import Refusal

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=1)


@pytest.mark.parametrize(
    ("metric", "threshold", "value", "begins"),
    [
        (Metric.BOUNCE_RATE, 0.05, 0.05, False),
        (Metric.BOUNCE_RATE, 0.05, 0.051, True),
        (Metric.BOUNCE_RATE, 0.0, 0.0, False),
        (Metric.DEFERRAL_RATE, 0.5, 0.6, True),
        (Metric.DELIVERED_RATE, 0.9, 0.9, False),
        (Metric.DELIVERED_RATE, 0.9, 0.89, True),
        (Metric.BALANCE, 100, 100, False),
        (Metric.BALANCE, 100, 99, True),
        (Metric.DAILY_CAP_USED, 0.8, 0.8, True),
        (Metric.DAILY_CAP_USED, 0.8, 0.79, False),
        (Metric.WEBHOOKS_FAILING, 1, 1, True),
        (Metric.WEBHOOKS_FAILING, 1, 0, False),
        (Metric.DOMAINS_FAILING, 2, 1, False),
        (Metric.BOUNCE_RATE, 0.05, None, False),
    ],
)
def test_when_it_begins(metric: Metric, threshold: float, value: float | None, begins: bool) -> None:
    step = Condition(metric, threshold, 0, 0).step(value, False, None, NOW)
    assert step is (Step.BEGIN if begins else Step.NONE)


@pytest.mark.parametrize(
    ("metric", "threshold", "hysteresis", "value", "ends"),
    [
        (Metric.BOUNCE_RATE, 0.05, 0.01, 0.045, False),
        (Metric.BOUNCE_RATE, 0.05, 0.01, 0.04, True),
        (Metric.BOUNCE_RATE, 0.05, 0, 0.05, True),
        (Metric.BOUNCE_RATE, 0.05, 0, 0.06, False),
        (Metric.BOUNCE_RATE, 0.05, 0.01, None, True),
        (Metric.BALANCE, 100, 50, 120, False),
        (Metric.BALANCE, 100, 50, 150, True),
        (Metric.WEBHOOKS_FAILING, 1, 0, 1, False),
        (Metric.WEBHOOKS_FAILING, 1, 0, 0, True),
    ],
)
def test_when_it_ends(metric: Metric, threshold: float, hysteresis: float, value: float | None, ends: bool) -> None:
    step = Condition(metric, threshold, hysteresis, 0).step(value, True, LONG_AGO, NOW)
    assert step is (Step.END if ends else Step.NONE)


def test_after_an_end_it_rests() -> None:
    condition = Condition(Metric.BALANCE, 100, 0, 600)
    assert condition.step(1, False, NOW - timedelta(seconds=599), NOW) is Step.NONE
    assert condition.step(1, False, NOW - timedelta(seconds=600), NOW) is Step.BEGIN


@given(
    st.sampled_from(list(Metric)),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.floats(0, 2),
)
def test_a_value_never_begins_and_ends_at_once(
    metric: Metric, threshold: float, hysteresis: float, value: float
) -> None:
    condition = Condition(metric, threshold, hysteresis, 0)
    begins = condition.step(value, False, None, NOW) is Step.BEGIN
    ends = condition.step(value, True, LONG_AGO, NOW) is Step.END
    assert not (begins and ends)


def test_rates() -> None:
    counts = {EventKind.DELIVERED: 90, EventKind.BOUNCED: 6, EventKind.EXPIRED: 4, EventKind.DEFERRED: 100}
    assert alerts.rate(Metric.BOUNCE_RATE, counts, 100) == 0.1
    assert alerts.rate(Metric.DELIVERED_RATE, counts, 100) == 0.9
    assert alerts.rate(Metric.DEFERRAL_RATE, counts, 100) == 100 / 196
    assert alerts.rate(Metric.BOUNCE_RATE, counts, 101) is None
    assert alerts.rate(Metric.BOUNCE_RATE, {}, 0) is None


@pytest.mark.parametrize(
    ("metric", "threshold"),
    [
        (Metric.BOUNCE_RATE, 1.1),
        (Metric.BOUNCE_RATE, -0.1),
        (Metric.BOUNCE_RATE, float("nan")),
        (Metric.BALANCE, float("inf")),
        (Metric.BALANCE, -1),
        (Metric.BALANCE, 1e16),
        (Metric.WEBHOOKS_FAILING, 0),
        (Metric.DAILY_CAP_USED, 2),
    ],
)
def test_bad_thresholds(metric: Metric, threshold: float) -> None:
    with pytest.raises(Refusal):
        alerts.threshold(threshold, metric, "threshold")


@pytest.mark.parametrize(
    ("metric", "threshold", "hysteresis"),
    [
        (Metric.BOUNCE_RATE, 0.05, 0.06),
        (Metric.BOUNCE_RATE, 0.05, -0.01),
        (Metric.DELIVERED_RATE, 0.9, 0.2),
        (Metric.BALANCE, 10, 1e16),
        (Metric.BALANCE, 10, float("nan")),
    ],
)
def test_a_firing_must_be_able_to_end(metric: Metric, threshold: float, hysteresis: float) -> None:
    with pytest.raises(Refusal):
        alerts.hysteresis(hysteresis, metric, threshold, "hysteresis")


def test_what_cannot_be_measured() -> None:
    for value in (0, 99):
        with pytest.raises(Refusal):
            alerts.metric(value, "metric")


def test_spans_and_volumes() -> None:
    assert alerts.seconds(None, 60, 100, 70, "window") == 70
    assert alerts.seconds(60.4, 60, 100, 70, "window") == 60
    for value in (59, 101, -1, float("inf")):
        with pytest.raises(Refusal):
            alerts.seconds(value, 60, 100, 70, "window")
    assert (alerts.volume(0, "v"), alerts.volume(7, "v")) == (100, 7)
    with pytest.raises(Refusal):
        alerts.volume(-1, "v")
