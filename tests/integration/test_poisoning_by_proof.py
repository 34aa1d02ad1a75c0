"""A proof that a caller may read one model must open no other."""

import json
from collections.abc import Callable
from urllib.parse import parse_qsl, quote

import pytest

from tests.integration.poisoning import PROVEN, A, Access, B, ask, posted, said, send, serving
from tests.integration.support import API, LATEST, LIST, MODEL, Inbound, Respond, Upstream


def lenient(read_name: Callable[[str, str], str]) -> Respond:
    """Make a workspace that finds a model's name in its own way; token-a may read "a", token-b everything."""

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        path, _, query = inbound.target.partition("?")
        if inbound.received:
            pairs = json.loads(inbound.received, object_pairs_hook=lambda members: members)
            query = "&".join(f"{quote(str(name))}={quote(str(value))}" for name, value in pairs)
        name = read_name(path, query)
        if name != "a" and inbound.all("Authorization") == [A[0][1]]:
            await inbound.send(said(b"{}", "403 Forbidden"))
            return
        found = {"registered_model": {"name": name, "creation_timestamp": 1}, "files": [], "secret": name}
        await inbound.send(said(json.dumps(found).encode()))

    return respond


def last_name(path: str, query: str) -> str:
    pairs = parse_qsl(query.replace(";", "&"), keep_blank_values=True)
    return [value for name, value in pairs if name.strip("[] \0").lower() == "name"][-1]


def first_name(path: str, query: str) -> str:
    return next(value for name, value in parse_qsl(query) if name == "name")


def trimmed_in_proofs(path: str, query: str) -> str:
    name = first_name(path, query)
    return name.strip().casefold() if path.endswith(MODEL) else name


SECRETS = [f"{API}{LIST}?name=b&version=1", f"{API}registered-models/get-latest-versions?name=b"]


@pytest.mark.parametrize(
    "trick",
    [
        "name=b&name=a",
        "name=b&%6eame=a",
        "name=b&Name=a",
        "name=b&NAME=a",
        "name=b&name[]=a",
        "name=b&name%5B%5D=a",
        "name=b&name%20=a",
        "name=b&name%00=a",
        "name=b;name=a",
        "name=b&&name=a",
    ],
)
async def test_no_proof_of_one_model_is_taken_for_another(
    upstream: Upstream, access: Access, trick: str
) -> None:
    upstream.respond = lenient(last_name)
    async with serving(upstream, access(PROVEN)) as url:
        for secret in SECRETS:
            assert (await send(url, secret, B)).json()["secret"] == "b"
        assert (await send(url, f"{API}{MODEL}?{trick}", A)).status == 200
        for secret in SECRETS:
            reply = await send(url, secret, A)
            assert (reply.status, reply.body) == (403, b"{}")
        # Nor is a read that is spelt so given what others got.
        for endpoint in (LIST, LATEST):
            for tail in (trick, trick.replace("=b", "=\0").replace("=a", "=b").replace("=\0", "=a")):
                reply = await send(url, f"{API}{endpoint}?{quote(tail, safe='=&%[];')}", A)
                assert reply.status == 403 or reply.json()["secret"] == "a"


@pytest.mark.parametrize("name", ["a ", " a", "A", "a\t", "a\n"])
async def test_a_proof_that_names_another_model_opens_nothing(
    upstream: Upstream, access: Access, name: str
) -> None:
    """The workspace trims and folds names where they are proven and nowhere else."""
    secret = f"{API}{LIST}?name={quote(name)}&version=1"
    strict = lenient(first_name)

    async def respond(inbound: Inbound) -> None:
        insider = inbound.all("Authorization") == [B[0][1]]
        await (strict if insider else lenient(trimmed_in_proofs))(inbound)

    upstream.respond = respond
    async with serving(upstream, access(PROVEN)) as url:
        assert (await send(url, secret, B)).json()["secret"] == name
        for _ in range(2):
            assert (await send(url, secret, A)).status == 403
        proofs = [call for call in upstream.seen if f"{API}{MODEL}" in call.target]
        assert len(proofs) == 3, "each once, and again after a refusal"


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "a", "name": "b"}',
        '{"name": "a", "\\u006eame": "b"}',
        '{"name": "a", "Name": "b"}',
        '{"name": "a", "name[]": "b"}',
        '{"name": "a", "name ": "b"}',
        '{"name": "a", "name\\u0000": "b"}',
    ],
)
async def test_a_body_names_one_model_or_is_asked_by_each(
    upstream: Upstream, access: Access, body: str
) -> None:
    upstream.respond = lenient(last_name)
    async with serving(upstream, access(PROVEN)) as url:
        assert (await ask(url, posted(body), B)).json()["secret"] == "b"
        assert (await ask(url, posted(body), A)).status == 403
