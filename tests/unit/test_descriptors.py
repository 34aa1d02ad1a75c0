"""What the limit of open files carries, and how it shows that it is reached."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.descriptors import Room, is_exhaustion, nearly_exhausted
from mlflow_proxy.listener.accepting import Complaints
from tests.descriptors import no_descriptors_left

WANTED = Room(clients=10_000, upstream=256, administration=0)


@pytest.mark.parametrize("allowed", [None, WANTED.descriptors, 1_048_576])
def test_what_there_is_room_for_is_as_the_settings_say(allowed: int | None) -> None:
    assert WANTED.within(allowed) == WANTED


@pytest.mark.parametrize(
    ("allowed", "room"),
    [
        (WANTED.descriptors - 1, Room(9_999, 256, 0)),
        (4_096, Room(3_520, 256, 0)),
        (1_024, Room(480, 240, 0)),
        (300, Room(118, 59, 0)),
        (80, Room(20, 10, 0)),
    ],
)
def test_fewer_descriptors_carry_fewer_connections(allowed: int, room: Room) -> None:
    assert WANTED.within(allowed) == room


@given(
    st.integers(16, 100_000),
    st.builds(Room, st.integers(1, 20_000), st.integers(1, 2_000), st.sampled_from([0, 100])),
)
def test_there_are_never_more_connections_than_descriptors(allowed: int, wanted: Room) -> None:
    room = wanted.within(allowed)
    assert room.clients + 2 * room.upstream + room.administration <= allowed
    assert 1 <= room.clients <= wanted.clients
    assert 1 <= room.upstream <= wanted.upstream
    assert bool(wanted.administration) <= room.administration <= wanted.administration


def test_that_none_is_left_is_noticed() -> None:
    assert not nearly_exhausted()
    with no_descriptors_left():
        assert nearly_exhausted()
        with pytest.raises(OSError, match="Too many open files") as caught:
            os.dup(0)
    assert is_exhaustion(caught.value)
    assert not is_exhaustion(OSError(errno.ECONNREFUSED, "Connection refused"))


def test_what_is_said_too_often_is_counted() -> None:
    complaints = Complaints()
    told = [complaints.note(now) for now in (0.0, 1.0, 59.0, 60.0, 61.0, 500.0)]
    assert told == [1, None, None, 3, None, 2]
