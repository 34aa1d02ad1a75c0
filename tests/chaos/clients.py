"""The clients: real MLflow and light ones, each with a credential that may read some models and not others.

What belongs here: what they do over and over, what came of it, and what would have been wrong.
"""

import asyncio
import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from mlflow_proxy.demo.light_client import Caller, LightClient
from mlflow_proxy.demo.models import Content, chunks
from mlflow_proxy.demo.plain_http import HttpError, PlainClient, Response
from tests.chaos.modes import EVERYONE, SECRET, TEAMS, Asked, Mode, token
from tests.integration import test_clients as real

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_TRIES = 8
"""The first one and seven retries, as mlflow does since 2.20.4."""


@dataclass
class Failure:
    """A download that did not come to an end (monotonic seconds)."""

    client: str
    began: float
    ended: float
    reason: str
    token: str = ""


@dataclass
class Findings:
    """What came of everything."""

    downloads: Counter[str] = field(default_factory=Counter)
    files: int = 0
    size: int = 0
    failures: list[Failure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Files with other bytes than they should have."""
    refused: Counter[str] = field(default_factory=Counter)
    """What was said to who may not read a model."""
    leaks: list[str] = field(default_factory=list)
    """Answers to who may not have them."""
    cache: Counter[str] = field(default_factory=Counter)
    """What Cache-Status said, by its first words."""

    def compare(
        self, client: str, began: float, expected: Mapping[str, Content], got: Mapping[str, bytes]
    ) -> None:
        """Count a download that came to an end without an error."""
        self.downloads[client] += 1
        for path, content in expected.items():
            if path not in got:
                self.failures.append(Failure(client, began, time.monotonic(), f"{path} is missing"))
                continue
            self.files += 1
            self.size += len(got[path])
            if digest(b"".join(chunks(content))) != digest(got[path]):
                self.wrong.append(f"{client}: {path}")
        self.wrong += [f"{client}: {path} does not belong there" for path in got.keys() - expected.keys()]


def digest(data: bytes) -> str:
    """Return what tells bytes apart."""
    return hashlib.sha256(data).hexdigest()


class PatientClient(PlainClient):
    """Tries again after a connection broke, as urllib3 does for mlflow; has what `origin` answers judged."""

    def __init__(self, origin: str, mode: Mode, found: Findings) -> None:
        super().__init__()
        self._origin = origin
        self._mode = mode
        self._found = found

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        for attempt in range(_TRIES):
            began = time.monotonic()
            try:
                response = await super().get(url, headers)
            except HttpError:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(min(2**attempt, 60) * random.uniform(0.5, 1.0))
            else:
                said = response.headers.get("cache-status", "").removeprefix("mlflow-proxy; ")
                if said:
                    self._found.cache[said.partition("; ttl=")[0]] += 1
                if url.startswith(self._origin):
                    self._judge(url.removeprefix(self._origin), headers, began, response)
                return response
        raise AssertionError

    def _judge(self, target: str, headers: Mapping[str, str], began: float, response: Response) -> None:
        shown = headers.get("Authorization", "").removeprefix("Bearer ")
        complaint = self._mode.complaint(Asked(shown, target, began, time.monotonic(), *response))
        if complaint:
            self._found.leaks.append(complaint)

    async def insist(self, url: str, headers: Mapping[str, str]) -> Response:
        """Return an answer that mlflow would not ask for again."""
        for attempt in range(_TRIES):
            response = await self.get(url, headers)
            if response.status not in _RETRIED:
                break
            asked = response.headers.get("retry-after", "")
            await asyncio.sleep(int(asked) if asked.isdecimal() else 2**attempt)
        return response


async def light(
    url: str,
    mode: Mode,
    team: str,
    number: int,
    door: str,
    files: Mapping[str, Mapping[str, Content]],
    found: Findings,
) -> None:
    """Download what the team may, and try what it may not, until cancelled."""
    chance = random.Random(f"{team} {number}")
    client = f"light {door}"
    own = token(team, number)
    headers = {"Authorization": f"Bearer {own}"}
    while True:
        name = chance.choice([team, EVERYONE])
        began = time.monotonic()
        async with PatientClient(url, mode, found) as http:
            try:
                if door == "A":
                    got: Mapping[str, bytes] = await _by_door_a(http, url, name, headers)
                else:
                    downloading = LightClient(http, url, Caller(own), name, "1", workers=2)
                    got = await downloading.download()
                    if downloading.failures:
                        raise HttpError(downloading.failures[0])
                found.compare(client, began, files[name], got)
            except HttpError as error:
                found.failures.append(Failure(client, began, time.monotonic(), str(error), own))
            for shown, model in mode.tries(team, own, chance):
                target = chance.choice(_ways_to(model, chance.choice(list(files[model]))))
                try:
                    response = await http.insist(url + target, {"Authorization": f"Bearer {shown}"})
                except HttpError as error:
                    found.failures.append(Failure(client, began, time.monotonic(), str(error), own))
                else:
                    found.refused[str(response.status)] += 1
        await asyncio.sleep(chance.random())


def _ways_to(model: str, path: str) -> list[str]:
    version = urlencode({"name": model, "version": "1"})
    api = "/api/2.0/mlflow"
    return [
        f"{api}/registered-models/get?name={model}",
        f"{api}/model-versions/get?{version}",
        f"{api}/model-versions/list-artifacts?{version}",
        f"{api}/model-versions/get-signed-download-uri?{version}&path={quote(path, safe='')}",
        f"{api}/model-versions/get-download-uri?{version}",
        f"{api}-artifacts/artifacts?path=mlflow-proxy/{model}/1",
        f"{api}-artifacts/artifacts/mlflow-proxy/{model}/1/{quote(path)}",
    ]


async def _by_door_a(
    http: PatientClient, url: str, model: str, headers: Mapping[str, str]
) -> dict[str, bytes]:
    base = f"{url}/api/2.0/mlflow-artifacts/artifacts"
    files: dict[str, bytes] = {}
    directories = [""]
    while directories:
        directory = directories.pop()
        where = quote(f"mlflow-proxy/{model}/1/{directory}".rstrip("/"), safe="")
        for entry in json.loads(await _body(http, f"{base}?path={where}", headers))["files"]:
            path = f"{directory}{entry['path']}"
            if entry["is_dir"]:
                directories.append(f"{path}/")
            else:
                target = quote(f"mlflow-proxy/{model}/1/{path}")
                files[path] = await _body(http, f"{base}/{target}", headers)
    return files


async def _body(http: PatientClient, url: str, headers: Mapping[str, str]) -> bytes:
    response = await http.insist(url, headers)
    if response.status != 200:
        raise HttpError(f"{url.partition('?')[0]}: {response.status} {response.body[:200]!r}")
    return response.body


async def mlflow(
    url: str,
    mode: Mode,
    version: str,
    door: real.Door,
    team: str,
    files: Mapping[str, Mapping[str, Content]],
    found: Findings,
    directory: Path,
) -> None:
    """Let a real client do the same, one download after the other, until cancelled."""
    chance = random.Random(f"{version} {door}")
    client = f"mlflow {version} {door}"
    home = directory / f"{version}-{door}-{team}"
    home.mkdir()
    secret = token(team, 0)
    async with real.job(version, door, url, home, secret) as process:
        for number in range(10**6):
            name = chance.choice([team, EVERYONE])
            target = home / str(number)
            began = time.monotonic()
            errors = await real.download(process, {str(target): f"models:/{name}/1"})
            if SECRET in str(errors).replace(secret, ""):
                found.leaks.append(f"a credential in the error of {client}: {errors}")
            if errors:
                reason = " ".join(next(iter(errors.values())).split())
                found.failures.append(Failure(client, began, time.monotonic(), reason[:600], secret))
            else:
                found.compare(client, began, files[name], real.files_in(target))
            shutil.rmtree(target, ignore_errors=True)
            if number % 3 == 0 and mode.readers(team) is not None:
                await _refused(process, chance.choice([each for each in TEAMS if each != team]), found, home)


async def _refused(process: asyncio.subprocess.Process, other: str, found: Findings, home: Path) -> None:
    target = home / "refused"
    errors = await real.download(process, {str(target): f"models:/{other}/1"})
    got = real.files_in(target)
    if got:
        found.leaks.append(f"mlflow downloaded {sorted(got)} of {other}")
    said = " ".join(errors.values())
    known = ("PERMISSION_DENIED", "No permission to read", "status code 403")
    # mlflow 3 takes a model that it may not list for an empty one.
    found.refused["mlflow 403" if any(each in said for each in known) else said[:80] or "no files"] += 1
    shutil.rmtree(target, ignore_errors=True)


def excuse(
    failure: Failure, mode: Mode, none_up: Sequence[float], outages: Sequence[tuple[float, float]]
) -> str:
    """Say what explains a failure, "" if nothing does."""
    if shut_out := mode.excuse(failure.token, failure.began, failure.ended):
        return shut_out
    if any(failure.began <= moment <= failure.ended for moment in none_up):
        return "no replica was up"
    if any(began <= failure.ended and failure.began <= ended for began, ended in outages):
        return "the workspace was down meanwhile"
    return ""
