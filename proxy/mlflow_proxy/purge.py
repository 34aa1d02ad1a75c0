"""`mlflow-proxy purge`: tell a proxy that is running to drop what it has stored."""

import asyncio
import os
import re
import ssl
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, SecretStr
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.settings import PREFIX, CommandSettings, parse

_TOKEN = f"{PREFIX}ADMIN__TOKEN"
_PATIENCE = 30.0
"""Seconds for the whole of it."""


class PurgeSettings(CommandSettings):
    """Drop what a running proxy has stored of a model, here and in its fleet."""

    model_config = SettingsConfigDict(cli_prog_name="mlflow-proxy purge")

    model: CliPositionalArg[str] = Field("", description="NAME, NAME/VERSION or models:/NAME/VERSION")
    all: bool = Field(False, description="all models instead of one")
    url: str = Field("http://127.0.0.1:8080", description="where the proxy answers /-/")
    token: SecretStr = Field(SecretStr(""), description=f"the admin token; better in {_TOKEN}")
    ca_file: str = Field("", description="PEM file of the CA of an https URL, beside the system's")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status, 1 if the proxy refuses. Raises InvalidSettingsError."""
    settings = parse(PurgeSettings, arguments)
    what = _wanted(settings)
    token = settings.token.get_secret_value() or os.environ.get(_TOKEN, "")
    url = _url(settings.url)
    try:
        status, answer = asyncio.run(_post(url, what, token, _trust(settings.ca_file)))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        sys.stderr.write(f"mlflow-proxy: {_unreached(settings.url, error)}\n")
        return 1
    if status != 200:
        message = answer.get("message", "not the answer of an mlflow-proxy")
        sys.stderr.write(f"mlflow-proxy: {settings.url} answered {status}: {message}\n")
        return 1
    sys.stdout.write(_result(answer) + "\n")
    return 0


def _wanted(settings: PurgeSettings) -> dict[str, Any]:
    if settings.all == bool(settings.model):
        raise InvalidSettingsError("model: give either the NAME of a model, NAME/VERSION, or --all")
    if settings.all:
        return {"all": True}
    name, slash, version = settings.model.removeprefix("models:").strip("/").partition("/")
    if not name or (slash and not re.fullmatch("[0-9]+", version)):
        raise InvalidSettingsError(
            f"model: {settings.model!r} is neither NAME nor NAME/VERSION with a number for the version"
        )
    return {"name": name, "version": version} if version else {"name": name}


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in value
    except ValueError:
        known = False
    if not known:
        raise InvalidSettingsError("url: not a URL such as http://127.0.0.1:8080; correct --url")
    return value.rstrip("/") + "/-/purge"


def _trust(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise InvalidSettingsError(
                f"ca-file: {ca_file} cannot be used ({error.strerror}); give --ca-file a readable PEM file"
            ) from None
    return context


async def _post(
    url: str, what: Mapping[str, Any], token: str, context: ssl.SSLContext
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, json=what, headers=headers, ssl=context, allow_redirects=False) as response,
    ):
        try:
            answer = await response.json(content_type=None)
        except ValueError:
            answer = None
        return response.status, answer if isinstance(answer, dict) else {}


def _unreached(url: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {url} is not trusted; give --ca-file the PEM file of its CA"
    if isinstance(error, TimeoutError):
        return f"{url} did not answer within {_PATIENCE:g} s"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{url} could not be reached ({reason or type(error).__name__}); give --url where it serves /-/"


def _result(answer: Mapping[str, Any]) -> str:
    name, version = answer.get("name"), answer.get("version")
    what = "everything" if answer.get("all") else str(name)
    if version:
        what += f"/{version} (all of {name})"
    told: dict[object, str] = {
        True: "; the fleet was told",
        False: "; the fleet will be told once Redis is back",
    }
    return f"purged {what}: {answer.get('dropped')} stored answers" + told.get(answer.get("fleet_told"), "")
