"""Started servers on both sides of the proxy."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy.demo.models import Content, Model, Pattern
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings
from tests.demo import conftest as demo
from tests.integration.poisoning import Access, access_settings
from tests.integration.service import JOBS, PRINCIPAL, clients_toml
from tests.integration.slow_clients import Advance
from tests.integration.storage_destinations import Network, pretended
from tests.integration.support import MUCH, Api, RawClient, Upstream, proxied

FILES: dict[str, Content] = {
    "MLmodel": b"flavors: {}\n",
    "data/big.bin": Pattern(300_000, seed=1),
    "data/deeper/a b#\u00fc%41+.txt": b"odd",
    "empty.txt": b"",
}


def sample() -> Model:
    return demo.sample(FILES)


def guarded(*tokens: str) -> EmulatedWorkspace:
    """Return a workspace that lets in who has one of these tokens."""
    return EmulatedWorkspace([sample()], WorkspaceOptions(limit=MUCH, latency=0, tokens=frozenset(tokens)))


@pytest.fixture
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    async with EmulatedWorkspace([sample()], WorkspaceOptions(limit=MUCH, latency=0)) as workspace:
        yield workspace


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # what waits is to wait in the proxy
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
async def api(workspace: EmulatedWorkspace, session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    """Return a client of a proxy with default settings in front of the workspace."""
    async with proxied(workspace.url) as url:
        yield Api(session, url)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def proxy_url(upstream: Upstream) -> AsyncIterator[str]:
    """Return the URL of a proxy with default settings in front of the raw upstream."""
    async with proxied(upstream.url) as url:
        yield url


@pytest.fixture
def clients_file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.toml"
    path.write_text(clients_toml(JOBS))
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{PRINCIPAL}\n")
    return path


@pytest.fixture
def by_file(clients_file: Path, token_file: Path) -> AccessSettings:
    return AccessSettings(sharing="service", token_file=str(token_file), clients_file=str(clients_file))


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Return what makes the settings of a way to share, in attacks on shared answers."""
    return partial(access_settings, tmp_path)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reads be repeated at once: what is told to them is the same each time."""
    monkeypatch.setattr("mlflow_proxy.workspace.backoff", lambda *_: 0.0)


@pytest.fixture
async def client(proxy_url: str) -> AsyncIterator[RawClient]:
    """Return one connection to a proxy with default settings in front of the raw upstream."""
    async with await RawClient.connect(proxy_url) as client:
        yield client


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Return what this process takes for the network, in attacks on where storage may be."""
    return pretended(monkeypatch)


@pytest.fixture
async def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Let seconds pass at once on the event loop's clock."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    return forward
