"""Calls of the API the way a client makes them."""

from typing import Any

import aiohttp
from yarl import URL

from mlflow_proxy.demo.workspace import EmulatedWorkspace

API = "/api/2.0/mlflow/"


async def call(
    client: aiohttp.ClientSession, url: str, method: str, endpoint: str, token: str = "", **parameters: Any
) -> tuple[int, Any]:
    """Make a call, parameters in the query of a GET and in the body otherwise; return status and JSON."""
    query, body = (parameters, None) if method == "GET" else (None, parameters)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    path = endpoint if endpoint.startswith("/") else API + endpoint
    async with client.request(method, url + path, headers=headers, params=query, json=body) as response:
        return response.status, await response.json()


async def signed(
    client: aiohttp.ClientSession, workspace: EmulatedWorkspace, path: str
) -> tuple[URL, dict[str, str]]:
    """Return the signed URL of a file of version 1 of "m", as it is to be sent, and its headers."""
    endpoint = "model-versions/get-signed-download-uri"
    status, answer = await call(client, workspace.url, "GET", endpoint, name="m", version="1", path=path)
    assert status == 200
    headers = {header["name"]: header["value"] for header in answer.get("headers", [])}
    return URL(answer["signed_uri"], encoded=True), headers
