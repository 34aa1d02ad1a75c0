"""A client that makes MLflow's calls without being MLflow, so that fifty of them fit on a small machine.

What belongs here: the calls of one download through door B as mlflow 3.x makes them, in their order, with its
retries. The real client's order: the root is listed, then every directory, depth first and one after the
other, the root once more; each file found goes at once to a pool of workers, which list its directory again,
ask for a signed URL, and fetch that from storage.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from mlflow_proxy.demo.models import Content, Model, chunks
from mlflow_proxy.demo.plain_http import HttpError, PlainClient
from mlflow_proxy.demo.tokens import dealt

API = "/api/2.0/mlflow/model-versions/"
DISCOVERY = "/.well-known/databricks-config"

WORKERS = min(2 * (os.cpu_count() or 10), 20)
"""Threads of mlflow's pool: two for each core, at most 20."""

_THROTTLED = frozenset({429, 503})
"""The Databricks SDK repeats these after `Retry-After`, else after one to two seconds."""
_THROTTLED_PATIENCE = 300.0
_TRANSIENT = frozenset({408, 500, 502, 504})
"""mlflow itself repeats these, after 2, 4, 8, ... seconds."""
_TRANSIENT_RETRIES = 7
_TIMEOUT = 60.0


class DownloadError(Exception):
    """A call that mlflow would give up."""


@dataclass(frozen=True)
class Download:
    """How one client's download went; times in seconds of the machine's monotonic clock.

    Attributes:
        began: when it started.
        walked: when it had seen every directory.
        ended: when the last file had arrived.
        calls: calls to the registry API, each retry counted.
        refusals: 429 answers it saw.
        failures: what went wrong, one line each; empty if every file arrived with the right bytes.

    """

    began: float
    walked: float
    ended: float
    calls: int
    refusals: int
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Caller:
    """A caller: its bearer `token`, and the header `fields` that it adds to every call to the API."""

    token: str = "light"  # noqa: S105 (the emulated workspace lets everyone in)
    fields: tuple[tuple[str, str], ...] = ()


def callers(clients: int, tokens: int, *, addresses: bool = False) -> list[Caller]:
    """Return `clients` callers with `tokens` different tokens.

    With `addresses` each says its own in X-Forwarded-For, as a proxy on its way would have done.
    """
    return [
        Caller(token, (("X-Forwarded-For", f"10.1.{number // 250}.{number % 250 + 1}"),) if addresses else ())
        for number, token in enumerate(dealt(clients, tokens))
    ]


class LightClient:
    """One client on its way through one download; `url` is the workspace or a proxy.

    With `discovery` it also asks for the discovery document before each call, as the Databricks SDK does.
    """

    def __init__(
        self,
        http: PlainClient,
        url: str,
        caller: Caller,
        name: str,
        version: str,
        *,
        workers: int = WORKERS,
        discovery: bool = False,
    ) -> None:
        self._http = http
        self._url = url
        self._identity = {"name": name, "version": version}
        self._fields = {"Authorization": f"Bearer {caller.token}", **dict(caller.fields)}
        self._pool = asyncio.Semaphore(workers)
        self._discovery = discovery
        self.calls = 0
        self.refusals = 0
        self.walked = 0.0
        self.failures: list[str] = []

    async def download(self) -> Mapping[str, bytes]:
        """Return the files that arrived; `failures` describes the others."""
        files: dict[str, bytes] = {}
        try:
            async with asyncio.TaskGroup() as pool:
                if await self._list(""):
                    async for path in self._walk(""):
                        pool.create_task(self._download_file(path, files))
                self.walked = time.monotonic()
        except* DownloadError as failed:
            self.failures.extend(str(error) for error in failed.exceptions)
        return files

    async def _walk(self, directory: str) -> AsyncIterator[str]:
        for entry in await self._list(directory):
            if entry["is_dir"]:
                async for path in self._walk(entry["path"]):
                    yield path
            else:
                yield entry["path"]

    async def _download_file(self, path: str, files: dict[str, bytes]) -> None:
        async with self._pool:
            try:
                await self._list(path.rpartition("/")[0])
                signed = await self._ask("get-signed-download-uri", path=path)
                headers = {header["name"]: header["value"] for header in signed.get("headers", ())}
                files[path] = await self._get(signed["signed_uri"], headers)
            except DownloadError as error:
                # The other files still come: mlflow collects what failed and raises at the end.
                self.failures.append(str(error))

    async def _list(self, path: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        page: dict[str, str] = {}
        while True:
            answer = await self._ask("list-artifacts", path=path, **page)
            entries += answer.get("files", ())
            if not answer.get("files") or not answer.get("next_page_token"):
                return entries
            page = {"page_token": answer["next_page_token"]}

    async def _ask(self, endpoint: str, **parameters: str) -> dict[str, Any]:
        if self._discovery:
            await self._get(self._url + DISCOVERY, {})
        query = urlencode({**self._identity, **parameters})
        url = f"{self._url}{API}{endpoint}?{query}"
        answer: dict[str, Any] = json.loads(await self._get(url, self._fields, registry=True))
        return answer

    async def _get(self, url: str, headers: Mapping[str, str], *, registry: bool = False) -> bytes:
        path = url.partition("?")[0]
        began = time.monotonic()
        failures = 0
        while True:
            self.calls += registry
            try:
                async with asyncio.timeout(_TIMEOUT):
                    status, fields, body = await self._http.get(url, headers)
            except HttpError as error:
                raise DownloadError(str(error)) from error
            except TimeoutError as error:
                raise DownloadError(f"{path}: no answer within {_TIMEOUT:.0f} s") from error
            if status == 200:
                return body
            self.refusals += status == 429
            if status in _THROTTLED and time.monotonic() - began < _THROTTLED_PATIENCE:
                asked = fields.get("retry-after", "")
                pause = int(asked) if asked.isdecimal() else 1
            elif status in _TRANSIENT and failures < _TRANSIENT_RETRIES:
                failures += 1
                pause = 2**failures
            else:
                raise DownloadError(f"{path}: {status} {body[:200].decode(errors='replace')}")
            await asyncio.sleep(pause + random.random())  # noqa: S311 (spreads retries, guards nothing)


async def storm(
    url: str,
    callers: Sequence[Caller],
    model: Model,
    *,
    workers: int = WORKERS,
    discovery: bool = False,
) -> list[Download]:
    """Let a light client of each of `callers` download version 1 of `model` at once; compare every byte."""
    expected = model.versions["1"].files

    async def one(caller: Caller) -> Download:
        async with PlainClient() as http:
            client = LightClient(http, url, caller, model.name, "1", workers=workers, discovery=discovery)
            began = time.monotonic()
            files = await client.download()
            ended = time.monotonic()
        failures = (*client.failures, *differences(expected, files))
        return Download(began, client.walked or ended, ended, client.calls, client.refusals, failures)

    return await asyncio.gather(*map(one, callers))


def differences(expected: Mapping[str, Content], got: Mapping[str, bytes]) -> Sequence[str]:
    """Say of each file that is missing, unexpected or has other bytes than it should."""
    found = [f"{path}: unexpected" for path in got.keys() - expected.keys()]
    for path, content in expected.items():
        if path not in got:
            found.append(f"{path}: missing")
        elif b"".join(chunks(content)) != got[path]:
            found.append(f"{path}: other bytes")
    return found
