"""When Redis is tried again, and what of its losses is worth a line of the log."""

import pytest

from mlflow_proxy.fleet.reach import FIRST_PAUSE, LONGEST_PAUSE, QUIET, STEADY, Backoff, Reach


def test_who_stays_away_is_tried_less_and_less_often() -> None:
    backoff = Backoff()
    assert [backoff.after_loss(0.0, 1.0) for _ in range(6)] == [0.3, 0.6, 1.2, 2.4, 4.8, LONGEST_PAUSE]
    assert [backoff.after_loss(0.0, 0.0) for _ in range(100)] == [LONGEST_PAUSE / 2] * 100


@pytest.mark.parametrize(("lasted", "pause"), [(STEADY, FIRST_PAUSE), (STEADY - 0.1, 4 * FIRST_PAUSE)])
def test_only_what_lasted_is_forgotten(lasted: float, pause: float) -> None:
    backoff = Backoff()
    for _ in range(2):
        backoff.after_loss(0.0, 1.0)
    backoff.reached(10.0)
    assert backoff.after_loss(10.0 + lasted, 1.0) == pause


def test_a_loss_and_a_return_are_a_line_each() -> None:
    reach = Reach()
    assert reach.back()
    assert not reach.back()
    assert reach.lost("gone", 0.0)
    assert not reach.lost("gone", 1000.0)
    assert reach.reason == "gone"
    assert reach.back()
    assert reach.reason == ""
    assert reach.lost("gone", 1000.1)


def test_a_changed_reason_is_told_but_not_each_time_that_it_changes_back() -> None:
    reach = Reach()
    assert reach.lost("gone", 0.0)
    said = [moment for moment in range(1, 31) if reach.lost(f"gone, {moment % 2}", float(moment))]
    assert said == [QUIET, 2 * QUIET + 1]
    assert reach.reason == "gone, 0"
