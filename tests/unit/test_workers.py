"""When a worker that died is replaced."""

from mlflow_proxy.workers import Backoff


def test_one_that_lived_is_replaced_at_once() -> None:
    assert Backoff().after(3600) == 0


def test_one_that_dies_again_and_again_has_to_wait() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.after(3600) == 0
    assert backoff.after(0.1) == 1, "a long life makes up for the early deaths before"


def test_the_wait_stays_the_longest_however_often_it_dies() -> None:
    backoff = Backoff()
    assert {backoff.after(0) for _ in range(5000)} == {1, 2, 4, 8, 16, 30}
