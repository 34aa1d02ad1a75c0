"""The order of events, and what is told of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.clients import Findings, excuse, light, mlflow
from tests.chaos.modes import MODES, SHUT_OUT, TEAMS, Sharing
from tests.chaos.scene import Scene, setting
from tests.integration.test_clients import Door


@dataclass
class Plan:
    """How long it goes on, in seconds, and who takes part.

    A round is: a replica restarted, the workspace killed for `outage` seconds, the other replica restarted, a
    spike of latency. Redis is restarted once, in the middle. It ends no sooner than so many `files` have
    arrived and a client was refused, and one that was shut out too where the mode shuts clients out. `hurry`
    lets it do so often.
    """

    seconds: float
    round: float = 60.0
    outage: float = 6.0
    credentials: int = 2
    seed: int = 1
    files: int = 0
    sharing: Sharing = "credential"
    hurry: bool = False
    mlflow: tuple[tuple[str, Door, str], ...] = field(
        default=(("3", "A", "red"), ("3", "B", "green"), ("2.22", "A", "blue"), ("2.22", "B", "red"))
    )


async def run(plan: Plan, directory: Path) -> tuple[Findings, Scene, Plan]:
    """Do it all; the caller judges."""
    found = Findings()
    mode = MODES[plan.sharing](directory, plan.credentials, hurry=plan.hurry)
    async with setting(directory, mode, plan.seed) as scene:
        url = scene.balancer.url
        tasks = [
            asyncio.create_task(light(url, mode, team, number, "AB"[number % 2], scene.files, found))
            for team in TEAMS
            for number in range(plan.credentials)
        ]
        tasks += [
            asyncio.create_task(mlflow(url, mode, version, door, team, scene.files, found, directory))
            for version, door, team in plan.mlflow
        ]
        tasks.append(asyncio.create_task(mode.change(scene.workspace, url)))
        events = asyncio.create_task(_events(plan, scene, found))
        try:
            await asyncio.wait([events, *tasks], return_when=asyncio.FIRST_COMPLETED)
            assert events.done(), [task for task in tasks if task.done()]
            await events
        finally:
            for task in (events, *tasks):
                task.cancel()
            await asyncio.wait([events, *tasks])
        scene.take_stock()
    found.leaks += scene.leaks
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return found, scene, plan


async def _events(plan: Plan, scene: Scene, found: Findings) -> None:
    ends = time.monotonic() + plan.seconds
    halfway = time.monotonic() + plan.seconds / 2
    pause = plan.round / 6
    while time.monotonic() < ends:
        await asyncio.sleep(pause)
        await scene.restart_replica(0)
        await asyncio.sleep(pause)
        await scene.kill_workspace(plan.outage)
        await asyncio.sleep(pause)
        await scene.restart_replica(1)
        await asyncio.sleep(pause)
        await scene.slow_workspace(plan.outage)
        if time.monotonic() > halfway and not scene.redis_restarts:
            await scene.restart_redis(plan.outage / 2)
        scene.take_stock()
    await asyncio.sleep(pause)
    mode = scene.mode
    while plan.files and (  # noqa: ASYNC110 - no event
        found.files < plan.files
        or not found.refused[str(mode.refusal)]
        or (mode.shuts_out and not mode.judged)
    ):
        await asyncio.sleep(0.05)


def report(found: Findings, scene: Scene, plan: Plan) -> Iterator[str]:
    """Yield lines for people."""
    yield f"{plan.sharing}, {plan.seconds / 60:g} minutes, seed {plan.seed}"
    yield f"downloads: {sum(found.downloads.values())} {dict(sorted(found.downloads.items()))}"
    yield f"files compared: {found.files}, {found.size / 1e6:.1f} MB; WRONG: {len(found.wrong)}"
    yield f"tries without permission: {dict(found.refused)}; ANSWERS ACROSS ACCESS LISTS: {len(found.leaks)}"
    if scene.mode.changes:
        yield f"changes: {dict(scene.mode.changes)}; said while shut out: {dict(scene.mode.judged)}"
    excuses = [
        excuse(each, scene.mode, scene.balancer.none_up, scene.outages) or "NOTHING"
        for each in found.failures
    ]
    excused = Counter(excuses)
    yield f"failed downloads: {len(found.failures)}, explained by: {dict(excused)}"
    yield f"workspace killed {len(scene.outages)} times, for " + ", ".join(
        f"{ended - began:.1f}" for began, ended in scene.outages
    )
    for replica in scene.replicas:
        ends = ", ".join(f"{status} after {seconds:.1f} s" for status, seconds in replica.ends)
        yield f"replica restarted {len(replica.ends) - 1} times; exit status {ends}"
        yield f"  its log: {dict(replica.events.most_common(12))}; errors: {len(replica.errors)}"
    yield f"connections that found no replica: {len(scene.balancer.none_up)}"
    yield f"Redis restarted: {scene.redis_restarts}"
    yield f"injected: {dict(scene.chaos.injected)}"
    yield f"the workspace answered: {dict(scene.statuses)}"
    yield f"light clients were answered: {dict(found.cache.most_common())}"
    for failure, why in zip(found.failures, excuses, strict=True):
        if why == SHUT_OUT:
            continue  # many, and all alike
        yield f"  {failure.client}, {failure.ended - failure.began:.0f} s, {why}: {failure.reason}"
    yield from found.wrong
    yield from found.leaks
    for replica in scene.replicas:
        yield from replica.errors
