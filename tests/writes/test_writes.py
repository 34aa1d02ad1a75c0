"""Random writes and reads in short, and what is broken is found; `python -m tests.writes` is longer."""

from collections.abc import Callable

import pytest

import mlflow_proxy.mlflow_api.routes
import mlflow_proxy.reading.generations
import mlflow_proxy.reading.writes
from tests.writes.run import report, run

pytestmark = pytest.mark.timeout(120)

MOST_RUNS = 10
"""Until something that is broken on purpose has to have been found; it takes one or two."""


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_read_is_older_than_the_last_write(seed: int) -> None:
    seen = await run(120, 600, seed)
    told = "\n".join(report(seen))
    assert not seen.stale, told
    assert seen.reads["hit"], told
    kinds = {"permissions 200", "permissions 403", "update 200", "delete 200", "create 200", "harmless 404"}
    assert kinds <= set(seen.writes), told


def _nothing(*_: object) -> int:
    return 0


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (mlflow_proxy.reading.writes.Writes, "note", _nothing),
        (mlflow_proxy.mlflow_api.routes, "is_harmless", lambda path: True),
        (mlflow_proxy.reading.generations.Generations, "holds", lambda *_: True),
    ],
    ids=["nothing is dropped", "unknown writes drop nothing", "what was asked before a write counts"],
)
async def test_what_is_broken_is_found(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: Callable[..., object]
) -> None:
    monkeypatch.setattr(where, name, broken)
    for seed in range(MOST_RUNS):
        if (await run(120, 600, seed)).stale:
            return
    pytest.fail("it was not found")
