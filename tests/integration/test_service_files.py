"""Files of clients and tokens that change, are half written or disappear while the service runs."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import structlog

from mlflow_proxy.settings import AccessSettings
from tests.integration.conftest import guarded
from tests.integration.service import JOBS, NEXT, PRINCIPAL, clients_toml, replace, until
from tests.integration.support import FRESH, HIT, MODEL, STORED, Api, proxied


def spoil(path: Path, text: str | None) -> None:
    """Put something else in the place of a file, or nothing."""
    if text is None:
        path.unlink()
    else:
        replace(path, text)


async def test_clients_come_and_go_with_their_file(
    session: aiohttp.ClientSession, by_file: AccessSettings, clients_file: Path
) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m", token="token-a")).status == 200
        assert (await api.get(MODEL, name="m", token="token-c")).status == 401
        replace(clients_file, clients_toml({"job-b": "token-b", "job-c": "token-c"}))
        await until(lambda: api.get(MODEL, name="m", token="token-a"), 401)
        assert (await api.get(MODEL, name="m", token="token-c")).status == 200
        assert (await api.get(MODEL, name="m", token="token-b")).status == 200


def rewrite(path: Path, text: str) -> None:
    """Write another text into a file, as an editor may."""
    path.write_text(text)


WAYS = pytest.mark.parametrize("write", [replace, rewrite])


@WAYS
async def test_the_last_client_is_shut_out_too(
    session: aiohttp.ClientSession,
    by_file: AccessSettings,
    clients_file: Path,
    write: Callable[[Path, str], None],
) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        for token in JOBS.values():
            assert (await api.get(MODEL, name="m", token=token)).status == 200
        with structlog.testing.capture_logs() as said:
            write(clients_file, "[clients]\n")
            for token in JOBS.values():
                await until(partial(api.get, MODEL, name="m", token=token), 401)
        [warning] = [line["event"] for line in said if line["log_level"] == "warning"]
        assert warning == "no client is named, so that all clients are refused"
        write(clients_file, clients_toml({"job-a": "token-a"}))
        await until(partial(api.get, MODEL, name="m", token="token-a"), 200)
        assert (await api.get(MODEL, name="m", token="token-b")).status == 401


@WAYS
@pytest.mark.parametrize("left", ["", "# the clients:\n", "[clien", "[clients]\njob-a = "])
async def test_what_may_be_half_of_a_file_shuts_nobody_out(
    session: aiohttp.ClientSession,
    by_file: AccessSettings,
    clients_file: Path,
    write: Callable[[Path, str], None],
    left: str,
) -> None:
    async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        with structlog.testing.capture_logs() as said:
            write(clients_file, left)
            while not [line for line in said if line["log_level"] == "error"]:
                assert (await api.get(MODEL, name="m")).status == 200
        [line] = [line for line in said if line["log_level"] == "error"]
        assert line["event"] == "changed file cannot be used; what it said before stays in force"
        assert (await api.get(MODEL, name="m")).status == 200
        assert (await api.get(MODEL, name="m", token="token-c")).status == 401


async def test_a_proxy_may_start_without_a_client(
    session: aiohttp.ClientSession, by_file: AccessSettings, clients_file: Path
) -> None:
    replace(clients_file, "[clients]\n")
    with structlog.testing.capture_logs() as said:
        async with guarded(PRINCIPAL) as workspace, proxied(workspace.url, access=by_file) as url:
            api = Api(session, url)
            [warning] = [line for line in said if line["log_level"] == "warning"]
            assert warning["event"] == "no client is named, so that all clients are refused"
            assert (warning["setting"], warning["path"]) == ("access.clients_file", str(clients_file))
            assert (await api.get(MODEL, name="m")).status == 401
            assert (await api.get(MODEL, name="m", token="")).status == 401
            assert not workspace.registry_arrivals
            replace(clients_file, clients_toml(JOBS))
            await until(lambda: api.get(MODEL, name="m"), 200)


async def test_a_token_that_is_replaced_is_used_at_once(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path
) -> None:
    """The workspace knows the next token only: the call is refused, the file read, the call made again."""
    async with guarded(NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        replace(token_file, NEXT)
        assert (await api.get(MODEL, name="m")).status == 200
        assert [call.token for call in workspace.arrivals] in ([PRINCIPAL, NEXT], [NEXT])


async def test_another_principal_s_answers_are_not_served(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path
) -> None:
    async with guarded(PRINCIPAL, NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).outcome == STORED
        replace(token_file, NEXT)
        outcome = HIT
        while outcome == HIT:
            outcome = (await api.get(MODEL, name="m")).outcome
        assert outcome == STORED
        assert [call.token for call in workspace.arrivals] == [PRINCIPAL, NEXT]


@pytest.mark.parametrize(
    "spoiled",
    ["x" * (2**20 + 1), None],
    ids=["too large", "absent"],
)
async def test_a_token_file_that_is_no_longer_one_changes_nothing(
    session: aiohttp.ClientSession, by_file: AccessSettings, token_file: Path, spoiled: str | None
) -> None:
    async with guarded(PRINCIPAL, NEXT) as workspace, proxied(workspace.url, access=by_file) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        spoil(token_file, spoiled)
        await asyncio.sleep(1.1)  # it has been looked at by then; if not, this tests less
        assert (
            await api.call("GET", MODEL, {"name": "m"}, headers={"Cache-Control": "no-cache"})
        ).outcome == FRESH
        replace(token_file, NEXT)
        while workspace.arrivals[-1].token != NEXT:
            assert (await api.call("POST", "runs/search", {})).status == 200
            await asyncio.sleep(0.02)
