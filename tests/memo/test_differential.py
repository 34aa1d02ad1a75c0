"""The differential run in short: `python -m tests.memo` goes on for as long as one likes."""

from pathlib import Path

import pytest

from tests.memo.differential import Sharing, run


@pytest.mark.parametrize("sharing", ["credential", "proven", "service"])
@pytest.mark.parametrize("seed", range(3))
async def test_the_memo_makes_no_difference(tmp_path: Path, sharing: Sharing, seed: int) -> None:
    result = await run(sharing, seed, 400, tmp_path)
    assert not result.found, "\n".join(result.found)
    assert result.hits > 10
