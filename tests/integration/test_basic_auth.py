"""An open-source server with users: who may no longer is refused at once, as it is when asked directly."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mlflow_proxy.settings import AccessSettings
from tests.integration.mlflow_server import mlflow_server
from tests.integration.support import API, HIT, LATEST, MODEL, Api, Reply, proxied

ADMIN = ("admin", "a-password-of-the-admin")
PASSWORD = "a-password-of-its-own"
CONFIGURATION = """
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{home}/auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
"""
"""Verifying a password takes long; what was verified is forgotten when the server changes its user."""

MAY_READ = {"resource_type": "registered_model", "resource_id": "m"}
READS: list[tuple[str, dict[str, str]]] = [
    (MODEL, {"name": "m"}),
    (LATEST, {"name": "m"}),
    ("registered-models/search", {}),
    ("model-versions/search", {"filter": "name='m'"}),
]


class User:
    """Asks one server, or through one proxy, with a name and a password."""

    def __init__(self, session: aiohttp.ClientSession, url: str, name: str, password: str) -> None:
        self._api = Api(session, url)
        self._headers = {"Authorization": aiohttp.encode_basic_auth(name, password)}

    async def call(self, method: str, path: str, parameters: dict[str, Any] | None = None) -> Reply:
        return await self._api.call(method, path, parameters, token="", headers=self._headers)

    async def does(self, method: str, path: str, parameters: dict[str, Any]) -> None:
        reply = await self.call(method, path, parameters)
        assert reply.status == 200, reply.body

    async def reads(self) -> list[tuple[int, bytes]]:
        replies = [await self.call("GET", path, asked) for path, asked in READS]
        return [(reply.status, reply.body) for reply in replies]


@asynccontextmanager
async def served(home: Path) -> AsyncIterator[str]:
    configuration = home / "auth.ini"
    configuration.write_text(CONFIGURATION.format(home=home))
    async with mlflow_server(
        home,
        *("--app-name", "basic-auth"),
        MLFLOW_AUTH_CONFIG_PATH=str(configuration),
        MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN[1],
        MLFLOW_FLASK_SERVER_SECRET_KEY="of-this-test",
    ) as url:
        yield url


WITHDRAWALS: list[tuple[str, str, dict[str, str]]] = [
    ("DELETE", "/api/2.0/mlflow/users/delete", {}),
    ("DELETE", "/ajax-api/2.0/mlflow/users/delete", {}),
    ("POST", "/api/3.0/mlflow/users/permissions/revoke", MAY_READ),
    ("POST", "/ajax-api/3.0/mlflow/users/permissions/revoke", MAY_READ),
    ("PATCH", "/api/2.0/mlflow/users/update-password", {"password": "another-password"}),
]


@pytest.mark.timeout(180)  # a new database takes the server its time
async def test_what_is_withdrawn_through_the_proxy_ends_at_once(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as upstream,
        proxied(upstream, access=AccessSettings(sharing="proven")) as url,
        aiohttp.ClientSession() as session,
    ):
        directly, admin = User(session, upstream, *ADMIN), User(session, url, *ADMIN)
        await directly.does("POST", f"{API}registered-models/create", {"name": "m"})
        for number, (method, path, said) in enumerate(WITHDRAWALS):
            name = f"user-{number}"
            user, beside = User(session, url, name, PASSWORD), User(session, upstream, name, PASSWORD)
            await directly.does("POST", f"{API}users/create", {"username": name, "password": PASSWORD})
            assert (await user.call("GET", *READS[0])).status == 403
            # What is granted through the proxy counts at once too: the refusal is not remembered.
            granted = {"username": name, "permission": "READ", **MAY_READ}
            await admin.does("POST", "/api/3.0/mlflow/users/permissions/grant", granted)
            before = await user.reads()
            assert before == await beside.reads() == await user.reads()
            assert {status for status, _ in before} == {200}
            assert (await user.call("GET", *READS[0])).outcome == HIT

            await admin.does(method, path, {"username": name, **said})
            after = await user.reads()
            assert after[0][0] in {401, 403}, path
            assert after == await beside.reads(), path


@pytest.mark.timeout(180)
async def test_what_the_server_makes_by_itself_is_seen(tmp_path: Path) -> None:
    async with (
        mlflow_server(tmp_path) as upstream,
        proxied(upstream) as url,
        aiohttp.ClientSession() as session,
    ):
        api, directly = Api(session, url), Api(session, upstream)
        asked = {"filter": "tags.`mlflow.prompt.is_prompt` = 'true'"}
        before = await api.get("registered-models/search", **asked)
        assert (await api.get("registered-models/search", **asked)).outcome == HIT
        demo = {"features": ["prompts"]}
        written = await api.call("POST", "/ajax-api/3.0/mlflow/demo/generate", demo)
        assert written.status == 200, written.body
        after = await api.get("registered-models/search", **asked)
        assert after.body == (await directly.get("registered-models/search", **asked)).body != before.body
