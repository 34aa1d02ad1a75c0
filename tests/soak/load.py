"""The load: every request has a credential of its own, and some hang up before they are answered.

Of a proxy that is a service half of them are its clients', of which there are many, and half nobody's.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions

MODELS = 50
_AT_ONCE = 16
_HANG_UP = 0.1
_CLIENTS = 2_000
_API = "/api/2.0/mlflow/"


@asynccontextmanager
async def workspace() -> AsyncIterator[EmulatedWorkspace]:
    """Serve models of a few files each, without a limit worth the name."""
    files = {"MLmodel": b"flavors: {}\n", "data/a.bin": bytes(2000), "data/b.bin": bytes(20_000)}
    models = [Model(f"m{number}", {"1": ModelVersion(files)}) for number in range(MODELS)]
    async with EmulatedWorkspace(models, WorkspaceOptions(limit=10**6, latency=0)) as serving:
        yield serving


def service(directory: Path) -> dict[str, str]:
    """Write the files of a service; returns its settings under `access`."""
    digests = (hashlib.sha256(_client(number).encode()).hexdigest() for number in range(_CLIENTS))
    lines = [f'c{number} = "sha256:{digest}"' for number, digest in enumerate(digests)]
    clients, token = directory / "clients.toml", directory / "token"
    clients.write_text("\n".join(["[clients]", *lines]))
    token.write_text("dapi-of-the-principal")
    return {"sharing": "service", "clients_file": str(clients), "token_file": str(token)}


def _client(number: int) -> str:
    return f"client-{number}"


def token(sharing: str, chance: random.Random) -> str:
    """Return whose name to call in."""
    if sharing == "service" and chance.random() < 0.5:
        return _client(chance.randrange(_CLIENTS))
    return str(chance.random())


async def calls(url: str, count: int, chance: random.Random, sharing: str = "credential") -> Counter[str]:
    """Make so many calls; returns what came of them."""
    seen: Counter[str] = Counter()
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            seen[await _call(url, chance, sharing)] += 1

    async with asyncio.TaskGroup() as workers:
        for _ in range(_AT_ONCE):
            workers.create_task(one_after_the_other())
    return seen


async def _call(url: str, chance: random.Random, sharing: str) -> str:
    """Make one call over a connection of its own; returns its status, or that it was hung up."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        method, target, body = _question(chance)
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: proxy.localhost\r\n"
            f"Authorization: Bearer {token(sharing, chance)}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        if chance.random() < _HANG_UP:
            await asyncio.sleep(chance.random() / 100)
            return "hung up"
        answer = await reader.read()
        return answer.split(b" ", 2)[1].decode() if answer else "nothing"
    except ConnectionError as error:
        return type(error).__name__
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _question(chance: random.Random) -> tuple[str, str, bytes]:
    # Some names nobody has registered: those that are made up grow without end.
    model = f"m{chance.randrange(MODELS)}" if chance.random() < 0.8 else f"x{chance.random()}"
    version = f"name={model}&version=1"
    kind = chance.randrange(8)
    if kind == 0:
        body = f'{{"name": "{model}", "key": "k", "value": "{chance.random()}"}}'
        return "POST", f"{_API}registered-models/set-tag", body.encode()
    targets = [
        f"{_API}registered-models/get?name={model}",
        f"{_API}model-versions/list-artifacts?{version}",
        f"{_API}model-versions/list-artifacts?{version}&path=data",
        f"{_API}model-versions/get-signed-download-uri?{version}&path=data/a.bin",
        f"{_API}runs/get?run_id={chance.random()}",
        f"/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/{model}/1",
        f"/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/{model}/1/data/b.bin",
    ]
    return "GET", targets[kind - 1], b""
