"""Every command in the documents runs, or is rehearsed where it would take minutes."""

import asyncio
import json
import os
import signal
import subprocess
import tomllib
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import REGISTRY, EmulatedWorkspace, WorkspaceOptions
from tests.certificates import Authority
from tests.docs.blocks import (
    MODEL,
    ROWS,
    SETTINGS_ONLY,
    TEXT_ONLY,
    TOKEN,
    Ends,
    Listens,
    Points,
    Rehearsed,
    Row,
    Serves,
)
from tests.docs.documents import DOCUMENTS, blocks_of
from tests.docs.harness import ROOT, Bench, addresses, ask, shows, until_it_answers
from tests.docs.markdown import Block
from tests.docs.rehearsal import commands, rehearse
from tests.environments import CLIENTS
from tests.fleet.redis_server import NetworkRedisServer
from tests.integration.support import proxied

BLOCKS = [block for file in DOCUMENTS for block in blocks_of(file)]
COMMANDS = [block for block in BLOCKS if block.language not in TEXT_ONLY]
FILES = {"MLmodel": b"flavors: {}\n", "data/weights.bin": b"\0" * 1000}

_DOWNLOAD = f"""
exec {CLIENTS["3"]} -c '
import mlflow, sys
mlflow.artifacts.download_artifacts("models:/{MODEL}/1", dst_path="downloaded")
'
"""


def row_of(block: Block) -> Row | None:
    """Return the row of a block, None for one that has none."""
    found = [row for row in ROWS if row.file == block.file and block.text.startswith(row.begins)]
    return max(found, key=lambda row: len(row.begins), default=None)


def sets_the_proxys_own(block: Block) -> bool:
    return block.language == "dotenv" and block.text.startswith(SETTINGS_ONLY)


def ids(block: Block) -> str:
    return str(block)


# -- the table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [each for each in COMMANDS if not sets_the_proxys_own(each)], ids=ids)
def test_the_table_says_how_each_block_is_run(block: Block) -> None:
    assert row_of(block) is not None, (
        f"{block}: no row of tests/docs/blocks.py says how to run the block {block.first!r}; "
        f"add one to ROWS, or one of {', '.join(sorted(TEXT_ONLY))} after the ``` if it is no command"
    )


def test_every_row_has_a_block() -> None:
    used = [row_of(block) for block in COMMANDS]
    unused = [row for row in ROWS if row not in used]
    assert not unused, "rows of tests/docs/blocks.py whose block is gone or begins otherwise now"


@pytest.mark.parametrize("block", BLOCKS, ids=ids)
def test_blocks_are_well_formed(block: Block) -> None:
    match block.language:
        case "sh" | "dotenv":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        case "toml":
            assert tomllib.loads(block.text)
        case "json":
            assert json.loads(block.text)
        case "python":
            compile(block.text, str(block), "exec")
        case "text":
            pass
        case other:
            pytest.fail(f"{block}: say after the ``` what the block is; {other!r} is not known here")


# -- running them ------------------------------------------------------------------------------------------


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    models = [Model(MODEL, {"1": ModelVersion(FILES)})]
    async with EmulatedWorkspace(models, WorkspaceOptions(latency=0)) as workspace:
        yield workspace


def with_rows(kind: type) -> list[Block]:
    found = []
    for block in COMMANDS:
        row = row_of(block)
        if row is not None and isinstance(row.how, kind):
            found.append(block)
    return found


@pytest.mark.parametrize("block", with_rows(Serves), ids=ids)
async def test_proxies_serve(block: Block, tmp_path: Path, workspace: EmulatedWorkspace) -> None:
    row = row_of(block)
    assert row is not None
    assert isinstance(row.how, Serves)
    async with AsyncExitStack() as stack:
        others = {}
        if "SHARED-PROXY" in block.text:
            others["http://SHARED-PROXY:8080"] = await stack.enter_async_context(proxied(workspace.url))
        if "redis://" in block.text:
            redis = NetworkRedisServer(tmp_path / "redis")
            await redis.start()
            stack.push_async_callback(redis.kill)
            others["redis://HOST:6379"] = redis.url
        bench = bench_in(tmp_path, addresses(workspace.url, **others, **secrets_in(tmp_path)))
        url = f"{row.how.scheme}://127.0.0.1:{bench.port}"
        process = await stack.enter_async_context(bench.started(block.text))
        await until_it_answers(process, url, "/-/healthz")
        if row.how.installs:
            assert list(bench.installed.glob("mlflow_proxy-*.dist-info"))
        status, cache_status = await ask(url, bench.seen.get("token", TOKEN))
        assert status == 200
        # A proxy behind a proxy adds to what the other says (RFC 9211 section 2).
        assert any("mlflow-proxy;" in each for each in cache_status)
        for path, text in row.how.shows:
            await shows(url, path, text)
        await stopped(process)


@pytest.mark.parametrize("block", with_rows(Points), ids=ids)
async def test_clients_download(block: Block, tmp_path: Path, workspace: EmulatedWorkspace) -> None:
    async with serving(workspace.url, tmp_path) as (bench, _):
        await bench.ended(block.text + _DOWNLOAD)
    directory = bench.directory / "downloaded"
    files = [path for path in directory.rglob("*") if path.is_file()]
    downloaded = {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
    assert downloaded.items() >= FILES.items()  # door B adds a note of its own
    assert {arrival.token for arrival in workspace.arrivals if arrival.group == REGISTRY} == {TOKEN}


@pytest.mark.parametrize("block", with_rows(Ends), ids=ids)
async def test_commands_end(block: Block, tmp_path: Path, workspace: EmulatedWorkspace) -> None:
    row = row_of(block)
    assert row is not None
    assert isinstance(row.how, Ends)
    async with serving(workspace.url, tmp_path) as (bench, url):
        variables = {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_TOKEN": TOKEN, "DOCS_PROXY": url}
        for text in row.how.says:
            assert text in await bench.ended(block.text, variables)


@pytest.mark.parametrize("block", with_rows(Listens), ids=ids)
async def test_redis_listens(block: Block, tmp_path: Path) -> None:
    bench = bench_in(tmp_path, {})
    async with bench.started(block.text) as process:
        while process.returncode is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.write(b"CONFIG GET maxmemory-policy\r\n")
            assert b"volatile-lru" in await reader.readuntil(b"lru\r\n")
            writer.close()
            break
        await stopped(process)


@pytest.mark.parametrize("block", with_rows(Rehearsed), ids=ids)
def test_long_commands_are_rehearsed(block: Block) -> None:
    for words in commands(block.text):
        rehearse(words)


def test_the_compose_file_is_one() -> None:
    """Read with the clients' YAML library: an engine is not to be had here."""
    read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    done = subprocess.run(
        [CLIENTS["3"], "-c", read],
        input=(ROOT / "deploy/compose.yaml").read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    composed = json.loads(done.stdout)
    assert set(composed["services"]) == {"proxy-a", "proxy-b", "redis"}
    for service in composed["services"].values():
        assert service["image"]


# -- what they need ----------------------------------------------------------------------------------------


def bench_in(directory: Path, replaced: dict[str, str]) -> Bench:
    place = directory / "bench"
    place.mkdir()
    bench = Bench(place, replaced)
    bench.replaced["127.0.0.1:8080"] = f"127.0.0.1:{bench.port}"
    return bench


@asynccontextmanager
async def serving(upstream: str, directory: Path) -> AsyncIterator[tuple[Bench, str]]:
    """Serve a proxy, in this process, where the commands' addresses lead; yields its URL."""
    async with proxied(upstream) as url:
        bench = bench_in(directory, addresses(upstream))
        bench.replaced["http://127.0.0.1:8080"] = url
        # The longest first: the address is a part of it.
        bench.replaced = dict(sorted(bench.replaced.items(), key=lambda pair: -len(pair[0])))
        yield bench, url


def secrets_in(directory: Path) -> dict[str, str]:
    """Make the files that the documents' proxies read."""
    token = directory / "databricks-token"
    token.write_text(TOKEN)
    pair = Authority(directory, "documents").issue("proxy")
    return {
        "/run/secrets/databricks-token": str(token),
        "/etc/mlflow-proxy/proxy.pem": str(pair.certificate),
        "/etc/mlflow-proxy/proxy.key": str(pair.key),
    }


async def stopped(process: Process) -> None:
    """Stop what a block started in the foreground, as an operator does; its status has to be 0."""
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = await process.communicate()
    assert process.returncode == 0, (output + errors).decode()
