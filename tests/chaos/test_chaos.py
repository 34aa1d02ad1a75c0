"""The chaos in short: `python -m tests.chaos` goes on for as long as one likes, with more real clients."""

from pathlib import Path

import pytest

from tests.chaos.modes import Sharing
from tests.chaos.run import Plan, report, run


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_what_arrives_is_right_and_reaches_nobody_else(tmp_path: Path) -> None:
    plan = Plan(1, round=3, outage=2.5, files=1, mlflow=(("3", "A", "red"),))
    found, scene, _ = await run(plan, tmp_path)
    told = "\n".join(report(found, scene, plan))
    assert not found.wrong, told
    assert not found.leaks, told
    assert len(scene.outages) == scene.redis_restarts == 1, told
    assert [len(replica.ends) for replica in scene.replicas] == [2, 2], told
    assert {status for replica in scene.replicas for status, _ in replica.ends} == {0}, told
    assert not [error for replica in scene.replicas for error in replica.errors], told


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("sharing", ["proven", "service"])
async def test_who_is_shut_out_while_calls_fail_gets_nothing(tmp_path: Path, sharing: Sharing) -> None:
    plan = Plan(0, round=0, files=1, sharing=sharing, hurry=True, mlflow=())
    found, scene, _ = await run(plan, tmp_path)
    told = "\n".join(report(found, scene, plan))
    assert not found.wrong, told
    assert not found.leaks, told
    assert scene.mode.judged, told
    assert not [error for replica in scene.replicas for error in replica.errors], told
