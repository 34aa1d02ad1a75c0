"""A real open-source server with basic-auth and workspaces: users, passwords, grants, roles, models."""

import asyncio
import base64
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from tests.differential import questions
from tests.differential.judge import Asker
from tests.differential.questions import Question
from tests.differential.timeline import Said
from tests.differential.upstreams import Everyone, Pair, Write
from tests.integration.mlflow_server import mlflow_server

ROOT = "root"
MODELS = ("m0", "m1")
VERSIONS = 2
TENANTS = ("", "blue")
"""MLflow workspaces; who names none is in the default one."""
_TENANT = "X-MLFLOW-WORKSPACE"
_PREFIXES = ("/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/")
"""This server does not know the others."""
_NEWER = ("/api/3.0/mlflow/", "/ajax-api/3.0/mlflow/")
_AT_ONCE = 6
_UNKNOWN = Said(401)
_ROLE_MODEL = "m1"
_CONFIGURATION = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{database}
admin_username = root
admin_password = {password}
auth_cache_ttl_seconds = 86400
"""
"""One process is the only one that changes users, so what it remembers of passwords is true."""


def password(user: str, number: int = 0) -> str:
    """Return one of a user's two passwords."""
    return f"dapi-{user}-password-{number}"


def fields_of(user: str, tenant: str = "", number: int = 0) -> tuple[tuple[str, str], ...]:
    """Return the fields of a request."""
    basic = base64.b64encode(f"{user}:{password(user, number)}".encode()).decode()
    return (("Authorization", f"Basic {basic}"), *(((_TENANT, tenant),) if tenant else ()))


def _asker(user: str, tenant: str, number: int = 0) -> Asker:
    name = f"{user} {number} {tenant}".strip()
    return Asker(name, fields_of(user, tenant, number), f"{ROOT} 0 {tenant}".strip(), tenant=tenant)


@dataclass
class OpenSource(Everyone):
    """The server, and what has been changed about it.

    ``finer`` is whether versions are denied to users who may read the model.
    """

    url: str = ""
    prefixes: tuple[str, ...] = _PREFIXES
    finer: bool = False
    session: aiohttp.ClientSession = field(init=False)
    users: int = 4
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _versions: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """Of each model, by workspace and name."""
    _next: dict[tuple[str, str], int] = field(default_factory=dict)
    _passwords: dict[str, int] = field(default_factory=dict)
    """Which of its two passwords each user has that exists."""
    _granted: set[tuple[str, str, str]] = field(default_factory=set)
    _denied: set[tuple[str, str]] = field(default_factory=set)
    _assigned: set[str] = field(default_factory=set)
    _role: int = 0
    _away: set[str] = field(default_factory=set)
    """Workspaces that were deleted."""

    def __post_init__(self) -> None:
        names = [f"u{number}" for number in range(self.users)]
        self.askers = [_asker(ROOT, tenant) for tenant in TENANTS]
        self.askers += [_asker(name, tenant) for name in names for tenant in TENANTS]
        self.askers.append(_asker(names[0], "", 1))
        self._passwords = dict.fromkeys(names, 0)
        for model in MODELS:
            self.questions += questions.about(model, VERSIONS, files=False)
        self.questions += questions.searches()

    async def set_up(self, chance: Random) -> None:
        """Make users, models, grants and a role."""
        await self._listening()
        await self._make("POST", "/api/3.0/mlflow/workspaces", {"name": TENANTS[1]})
        for user in self._passwords:
            await self._make("POST", "/api/2.0/mlflow/users/create", _user(user, 0))
        role = await self._make(
            "POST", "/api/3.0/mlflow/roles/create", {"name": "readers", "workspace": "default"}
        )
        self._role = role["role"]["id"]
        permission = {
            "resource_type": "registered_model",
            "resource_pattern": _ROLE_MODEL,
            "permission": "READ",
        }
        await self._make(
            "POST", "/api/3.0/mlflow/roles/permissions/add", {"role_id": self._role, **permission}
        )
        for tenant, model in itertools.product(TENANTS, MODELS):
            for _ in range(1 + VERSIONS):
                await self._do(self._content(chance, tenant, model))
            for user in self._passwords:
                if chance.random() < 0.6:
                    await self._do(self._grant(chance, user, tenant, model))

    async def _listening(self) -> None:
        """Wait until it takes connections: it says that it has started before it does."""
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with self.session.get(f"{self.url}/health"):
                    return
            await asyncio.sleep(0.05)

    async def _do(self, write: Write) -> None:
        prefix = "" if write.path.startswith("/") else _PREFIXES[0]
        await self._make(write.method, prefix + write.path, write.body, write.fields)

    async def _make(
        self, method: str, path: str, body: Mapping[str, Any], fields: tuple[tuple[str, str], ...] = ()
    ) -> Any:
        async with self.session.request(
            method, self.url + path, json=body, headers=fields or fields_of(ROOT)
        ) as response:
            assert response.status < 300, (method, path, body, response.status, await response.text())
            return await response.json(content_type=None)

    # -- answers -----------------------------------------------------------------------------------

    async def directly(self, pairs: Iterable[Pair]) -> dict[tuple[str, Question], Said]:
        """Ask the server itself, some at once.

        A password that is wrong takes it a quarter of a second. It looks at that before anything else, so
        that one such answer stands for all of a caller's.
        """
        left: defaultdict[Asker, list[Question]] = defaultdict(list)
        for asker, question in pairs:
            left[asker].append(question)
        answers: dict[tuple[str, Question], Said] = {}

        async def some(number: int) -> None:
            while left:
                asker, asked = left.popitem()
                unknown = False
                for question in asked:
                    said = _UNKNOWN if unknown else await self._ask(asker, question, number)
                    unknown = said == _UNKNOWN
                    answers[asker.name, question] = said

        await asyncio.gather(*(some(number) for number in range(_AT_ONCE)))
        return answers

    async def _ask(self, asker: Asker, question: Question, choice: int) -> Said:
        target = self.url + question.target(choice, self.prefixes)
        async with self.session.request(
            question.method, target, json=question.body, headers=asker.fields
        ) as response:
            body = await response.read()
        assert response.status < 500, (asker, question, response.status, body)
        return questions.said(question, response.status, body)

    # -- changes -----------------------------------------------------------------------------------

    def draw(self, chance: Random) -> Write:
        """Return a change of a model, of a permission, or of a user."""
        drawn, user = chance.random(), chance.choice(sorted(self._all_users()))
        if self._away or drawn < 0.01:
            return self._workspace()
        if drawn < 0.15 or user not in self._passwords:
            return self._account(chance, user)
        tenant, model = chance.choice(TENANTS), chance.choice(MODELS)
        if drawn < 0.45:
            return self._grant(chance, user, tenant, model)
        if drawn < 0.52:
            return self._assign(chance, user)
        if self.finer and drawn < 0.65:
            return self._deny(chance, user, tenant)
        return self._content(chance, tenant, model)

    def _all_users(self) -> list[str]:
        return [f"u{number}" for number in range(self.users)]

    def _workspace(self) -> Write:
        """Delete a workspace with all that is in it, or make it anew."""
        tenant = TENANTS[1]
        if tenant in self._away:
            self._away.clear()
            return Write("workspace", "POST", "/api/3.0/mlflow/workspaces", {"name": tenant}, fields_of(ROOT))
        self._away.add(tenant)
        self._granted = {each for each in self._granted if each[1] != tenant}
        self._denied = {each for each in self._denied if each[1] != tenant}
        for model in MODELS:
            self._versions.pop((tenant, model), None)
        path = f"/api/3.0/mlflow/workspaces/{tenant}?mode=CASCADE"
        return Write("workspace gone", "DELETE", path, {}, fields_of(ROOT))

    def _account(self, chance: Random, user: str) -> Write:
        path, askers = chance.choice(_PREFIXES) + "users/", self._askers(user)
        root = fields_of(ROOT)
        if user not in self._passwords:
            self._passwords[user] = 0
            return Write(f"{user} created", "POST", path + "create", _user(user, 0), root, askers=askers)
        if chance.random() < 0.5:
            self._passwords[user] = number = 1 - self._passwords[user]
            body = _user(user, number)
            return Write(f"{user}'s password", "PATCH", path + "update-password", body, root, askers=askers)
        del self._passwords[user]
        self._granted = {each for each in self._granted if each[0] != user}
        self._denied = {each for each in self._denied if each[0] != user}
        self._assigned.discard(user)
        return Write(f"{user} deleted", "DELETE", path + "delete", {"username": user}, root, askers=askers)

    def _grant(self, chance: Random, user: str, tenant: str, model: str) -> Write:
        path = chance.choice(_NEWER) + "users/permissions/"
        body = {"username": user, "resource_type": "registered_model", "resource_id": model}
        askers, fields = self._askers(user, tenant), fields_of(ROOT, tenant)
        if (user, tenant, model) in self._granted and chance.random() < 0.7:
            self._granted.remove((user, tenant, model))
            if chance.random() < 0.7:
                return Write(f"{user} revoked {model}", "POST", path + "revoke", body, fields, askers=askers)
            body |= {"permission": "DENY"}
            return Write(f"{user} denied {model}", "POST", path + "grant", body, fields, askers=askers)
        self._granted.add((user, tenant, model))
        body |= {"permission": chance.choice(["READ", "EDIT", "MANAGE"])}
        return Write(f"{user} granted {model}", "POST", path + "grant", body, fields, askers=askers)

    def _assign(self, chance: Random, user: str) -> Write:
        path, body = chance.choice(_NEWER) + "roles/", {"username": user, "role_id": self._role}
        askers, root = self._askers(user), fields_of(ROOT)
        if user in self._assigned:
            self._assigned.remove(user)
            return Write(f"{user} unassigned", "DELETE", path + "unassign", body, root, askers=askers)
        self._assigned.add(user)
        return Write(f"{user} assigned", "POST", path + "assign", body, root, askers=askers)

    def _deny(self, chance: Random, user: str, tenant: str) -> Write:
        path = chance.choice(_NEWER) + "users/permissions/"
        body = {"username": user, "resource_type": "registered_model_version", "resource_id": "*"}
        askers, fields = self._askers(user, tenant), fields_of(ROOT, tenant)
        if (user, tenant) in self._denied:
            self._denied.remove((user, tenant))
            return Write(f"versions back to {user}", "POST", path + "revoke", body, fields, askers=askers)
        self._denied.add((user, tenant))
        body |= {"permission": "DENY"}
        return Write(f"versions denied to {user}", "POST", path + "grant", body, fields, askers=askers)

    def _content(self, chance: Random, tenant: str, model: str) -> Write:
        about, versions, fields = (
            {"name": model},
            self._versions.get((tenant, model)),
            fields_of(ROOT, tenant),
        )

        inside = frozenset(asker.name for asker in self.askers if asker.tenant == tenant)

        def write(family: str, verb: str, body: Mapping[str, Any], method: str = "POST") -> Write:
            what = f"{method} {verb} {family} {model} of {tenant or 'default'}"
            return Write(what, method, f"{family}/{verb}", body, fields, model, inside)

        if versions is None:
            self._versions[tenant, model], self._next[tenant, model] = set(), 1
            return write("registered-models", "create", {**about, "description": self._nonce()})
        left = self._next[tenant, model] <= VERSIONS
        if left and (not versions or chance.random() < 0.5):
            versions.add(self._next[tenant, model])
            self._next[tenant, model] += 1
            return write("model-versions", "create", {**about, "source": f"s3://bucket/{self._nonce()}"})
        if not versions:
            # The server uses no number twice, and others are not asked for.
            del self._versions[tenant, model]
            return write("registered-models", "delete", about, "DELETE")
        version = {**about, "version": str(chance.choice(sorted(versions)))}
        tag = {"key": "k", "value": self._nonce()}
        stage = {"stage": chance.choice(["Production", "Staging", "Archived"])}
        match chance.randrange(10):
            case 0:
                del self._versions[tenant, model]
                return write("registered-models", "delete", about, "DELETE")
            case 1:
                versions.remove(int(version["version"]))
                return write("model-versions", "delete", version, "DELETE")
            case 2:
                return write("registered-models", "set-tag", {**about, **tag})
            case 3 | 4:
                return write("registered-models", "alias", {**version, "alias": "champion"})
            case 5:
                return write("registered-models", "alias", {**about, "alias": "champion"}, "DELETE")
            case 6:
                return write("model-versions", "set-tag", {**version, **tag})
            case 7:
                return write("model-versions", "transition-stage", {**version, **stage})
            case 8:
                return write("model-versions", "update", {**version, "description": self._nonce()}, "PATCH")
            case _:
                return write("registered-models", "update", {**about, "description": self._nonce()}, "PATCH")

    def _askers(self, user: str, tenant: str | None = None) -> frozenset[str]:
        own = (asker for asker in self.askers if asker.name.startswith(f"{user} "))
        return frozenset(asker.name for asker in own if tenant in {None, asker.tenant})

    def _nonce(self) -> str:
        return f"nonce-{next(self._numbers)}"


def _user(user: str, number: int) -> dict[str, str]:
    return {"username": user, "password": password(user, number)}


@asynccontextmanager
async def open_source(home: Path, chance: Random, *, finer: bool) -> AsyncIterator[OpenSource]:
    """Run a server of its own in a directory of its own, and make everything in it."""
    configuration = home / "auth.ini"
    configuration.write_text(_CONFIGURATION.format(database=home / "auth.db", password=password(ROOT)))
    options = ("--app-name", "basic-auth", "--enable-workspaces")
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": str(time.time()),
    }
    async with mlflow_server(home, *options, **settings) as url, aiohttp.ClientSession() as session:
        upstream = OpenSource(url=url, finer=finer)
        upstream.session = session
        await upstream.set_up(chance)
        yield upstream
