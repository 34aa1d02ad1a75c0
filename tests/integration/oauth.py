"""A workspace that gives out OAuth tokens to a service principal and takes nothing but them."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

CLIENT_ID, CLIENT_SECRET = "service-principal", "dose-the-principal-s-secret"


@dataclass
class OAuthWorkspace:
    """Tokens are "oauth-1", "oauth-2"...; they count as valid until they are taken out of ``valid``."""

    expires_in: int = 3600
    url: str = ""
    fetches: int = 0
    broken: bool = False
    """Whether the token endpoint fails, repeating what it was given."""
    valid: set[str] = field(default_factory=set)
    credentials: list[str] = field(default_factory=list)
    """The Authorization field of each call to the API."""

    async def answer(self, request: web.Request) -> web.Response:
        match request.path:
            case "/.well-known/databricks-config":
                return web.json_response({"oidc_endpoint": f"{self.url}/oidc", "workspace_id": "1"})
            case "/oidc/.well-known/oauth-authorization-server":
                return web.json_response(
                    {
                        "authorization_endpoint": f"{self.url}/oidc/v1/authorize",
                        "token_endpoint": f"{self.url}/oidc/v1/token",
                    }
                )
            case "/oidc/v1/token":
                return await self._token(request)
        given = request.headers.get("Authorization", "")
        self.credentials.append(given)
        if given.removeprefix("Bearer ") not in self.valid:
            return web.json_response({"error_code": "UNAUTHENTICATED", "message": "No."}, status=401)
        return web.json_response({"path": request.path})

    async def _token(self, request: web.Request) -> web.Response:
        self.fetches += 1
        asked = dict(await request.post())
        given = request.headers.get("Authorization", "")
        if self.broken:
            return web.json_response(
                {"error": "server_error", "error_description": f"{given} {CLIENT_SECRET}"}, status=500
            )
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        assert given == f"Basic {expected}"
        assert asked["grant_type"] == "client_credentials"
        token = f"oauth-{self.fetches}"
        self.valid.add(token)
        return web.json_response(
            {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in}
        )


@asynccontextmanager
async def oauth_workspace(*, expires_in: int = 3600) -> AsyncIterator[OAuthWorkspace]:
    """Serve one."""
    workspace = OAuthWorkspace(expires_in)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", workspace.answer)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    workspace.url = str(server.make_url("")).rstrip("/")
    try:
        yield workspace
    finally:
        await server.close()
