"""The parts of aiohttp that are not public and are built on: each is there, and named where it is used."""

import ast
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_proto import ResponseHandler

import mlflow_proxy.listener
import mlflow_proxy.upstream
from mlflow_proxy.listener import connection
from mlflow_proxy.upstream import connector

LISTENER = {
    "RequestHandler": ("_drain_helper", "_next_keepalive_close_time", "_parser"),
    "BaseSite": ("_server",),
}
UPSTREAM = {
    "ClientSession": ("_retry_connection",),
    "ResponseHandler": ("_parser", "_payload"),
    "TCPConnector": ("_conns", "_create_proxy_connection", "_factory", "_get", "_loop", "_release"),
}
PLACES: dict[ModuleType, dict[str, tuple[str, ...]]] = {connection: LISTENER, connector: UPSTREAM}


@asynccontextmanager
async def parts() -> AsyncIterator[dict[str, object]]:
    """Yield one object of each class of aiohttp that is built on."""
    loop = asyncio.get_running_loop()
    server = web.Server(lambda request: web.Response())  # type: ignore[arg-type,return-value]
    runner = web.ServerRunner(server)
    await runner.setup()
    async with aiohttp.ClientSession() as session:
        assert session.connector is not None
        yield {
            "RequestHandler": server(),
            "BaseSite": web.TCPSite(runner),
            "ClientSession": session,
            "ResponseHandler": ResponseHandler(loop),
            "TCPConnector": session.connector,
        }
    await runner.cleanup()


@pytest.mark.parametrize("place", PLACES, ids=lambda module: module.__name__)
async def test_aiohttp_has_the_parts_that_are_built_on(place: ModuleType) -> None:
    async with parts() as found:
        missing = [
            f"{owner}.{name}"
            for owner, names in PLACES[place].items()
            for name in names
            if not hasattr(found[owner], name)
        ]
    assert not missing, (
        f"aiohttp {version('aiohttp')} has no {', '.join(missing)} any more, and {place.__name__} needs it: "
        "find out what has taken its place before the bound in pyproject.toml moves."
    )


@pytest.mark.parametrize("place", PLACES, ids=lambda module: module.__name__)
def test_the_parts_are_named_in_one_docstring(place: ModuleType) -> None:
    for owner, names in PLACES[place].items():
        for name in names:
            assert f"``{owner}.{name}``" in (place.__doc__ or ""), f"{owner}.{name}"


def private(package: ModuleType) -> Iterator[str]:
    """Yield the private names that a package's modules ask of objects other than their own."""
    for file in Path(package.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
                if not own and node.attr != "_replace":  # every named tuple's
                    yield node.attr


@pytest.mark.parametrize(
    ("package", "place"), [(mlflow_proxy.listener, connection), (mlflow_proxy.upstream, connector)]
)
def test_no_other_part_is_built_on(package: ModuleType, place: ModuleType) -> None:
    named = {name for names in PLACES[place].values() for name in names}
    assert set(private(package)) <= named
