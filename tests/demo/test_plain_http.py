"""The light clients' HTTP: what they send, and the cookies that they keep."""

import itertools

from mlflow_proxy.demo.light_client import Caller, callers, storm
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.plain_http import PlainClient
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.integration.support import Inbound, Upstream


async def test_cookies_go_back_to_who_set_them() -> None:
    numbers = itertools.count(1)

    async def set_cookies(inbound: Inbound) -> None:
        fields = f"Set-Cookie: AWSALB=a={next(numbers)}; Path=/; HttpOnly\r\nset-cookie: once=yes\r\n"
        await inbound.send(f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode())

    async with Upstream(set_cookies) as balanced, Upstream() as other, PlainClient() as http:
        for url in (balanced.url, balanced.url, other.url, balanced.url):
            assert (await http.get(f"{url}/", {"X-Job": "1"})).status == 200
        assert [seen.all("Cookie") for seen in balanced.seen] == [
            [],
            ["AWSALB=a=1; once=yes"],
            ["AWSALB=a=2; once=yes"],
        ]
        assert [seen.all("Cookie") for seen in other.seen] == [[]]
        assert [seen.all("X-Job") for seen in balanced.seen] == [["1"]] * 3


def test_callers_have_tokens_dealt_in_turn_and_addresses_of_their_own() -> None:
    assert [caller.token for caller in callers(3, 2)] == ["demo-token-1", "demo-token-2", "demo-token-1"]
    assert len({caller.token for caller in callers(200, 200)}) == 200
    assert len({caller.fields for caller in callers(600, 1, addresses=True)}) == 600
    assert callers(1, 1) == [Caller("demo-token-1")]


async def test_a_workspace_knows_its_callers_and_nobody_else() -> None:
    model = storm_model(files=2, directories=1, file_size=10)
    known, strange = callers(2, 2, addresses=True)
    options = WorkspaceOptions(limit=1000, latency=0, tokens=frozenset({known.token}))
    async with EmulatedWorkspace([model], options) as workspace:
        welcome, refused = await storm(workspace.url, [known, strange], model)
        assert welcome.failures == ()
        assert "401" in refused.failures[0]
        fields = {arrival.headers["X-Forwarded-For"] for arrival in workspace.registry_arrivals}
        assert fields == {dict(caller.fields)["X-Forwarded-For"] for caller in (known, strange)}
