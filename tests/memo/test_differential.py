"""The differential run in short: `python -m tests.memo` goes on for as long as one likes."""

from pathlib import Path

import pytest

from tests.memo.differential import Sharing, run


async def test_a_refusal_that_is_asked_for_each_time_is_counted_each_time(tmp_path: Path) -> None:
    """Found by a longer run: the model's 404 is stored for longer than it counts as a refusal."""
    result = await run("proven", 113, 1450, tmp_path)
    assert not result.found, "\n".join(result.found)


@pytest.mark.parametrize("sharing", ["credential", "proven", "service"])
@pytest.mark.parametrize("seed", range(3))
async def test_the_memo_makes_no_difference(tmp_path: Path, sharing: Sharing, seed: int) -> None:
    result = await run(sharing, seed, 400, tmp_path)
    assert not result.found, "\n".join(result.found)
    assert result.hits > 10
