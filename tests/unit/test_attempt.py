"""How long the header of an answer may take, in virtual time."""

import asyncio

import pytest

from mlflow_proxy.upstream.attempt import Attempt
from tests.virtual_time import run


def test_a_header_may_take_so_long_after_the_last_of_its_request() -> None:
    async def upload_and_wait(silence: float) -> float:
        loop = asyncio.get_running_loop()
        attempt = Attempt()
        header = asyncio.timeout(None)
        try:
            async with header:
                with attempt.awaiting(header, 10):
                    for _ in range(5):
                        attempt.progressed()
                        await asyncio.sleep(9)
                    attempt.progressed()
                    await asyncio.sleep(silence)
        finally:
            due = header.when()
            attempt.progressed()
            assert header.when() == due, "what is sent after an early answer does not matter any more"
        return loop.time()

    assert run(upload_and_wait(9)) == 54
    with pytest.raises(TimeoutError):
        run(upload_and_wait(11))


def test_a_request_that_is_not_sent_yet_has_no_answer_to_wait_for() -> None:
    async def connect_slowly() -> None:
        async with asyncio.timeout(None) as header:
            with Attempt().awaiting(header, 10):
                await asyncio.sleep(1000)

    run(connect_slowly())
