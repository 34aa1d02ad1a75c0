"""What a name and an answer prove about the upstream."""

import asyncio
import gzip
import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from databricks.sdk.environments import ALL_ENVS
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.access.mode import Setting, in_force
from mlflow_proxy.discovery import HEAD_START, Discovery
from mlflow_proxy.mlflow_api.upstream_kind import (
    NOT_ASKED,
    Kind,
    KnownUpstream,
    UpstreamKind,
    at_first,
    by_document,
    by_name,
)
from tests import virtual_time

CONFIG = json.dumps({"oidc_endpoint": "https://w.example/oidc", "workspace_id": "1"}).encode()


@pytest.mark.parametrize("zone", [each.dns_zone for each in ALL_ENVS])
def test_every_domain_of_the_sdk_is_known(zone: str) -> None:
    for origin in (f"https://w-1{zone}", f"https://W-1{zone.upper()}.:8443/prefix"):
        found = by_name(origin)
        assert found is not None
        assert found.kind is Kind.DATABRICKS
        assert found.reason.startswith("its name ends in .")


@pytest.mark.parametrize(
    "origin",
    [
        "https://w.cloud.databricks.com.evil.example",
        "https://evilcloud.databricks.com",
        "https://w.evilazuredatabricks.net",
        "https://azuredatabricks.net",
        "https://databricks.com",
        "https://w.databricks.com",
        "https://w.cloud.databricks.com@evil.example",
        "https://evil.example/w.cloud.databricks.com",
        "https://evil.example?w.cloud.databricks.com",
        "https://w.cloud-databricks.com",
        "https://w.cloud.databricks.com..",
        "http://w.cloud.databricks.com",
        "http://127.0.0.1:5000",
        "http://[::1]:5000",
    ],
)
def test_other_names_prove_nothing(origin: str) -> None:
    assert by_name(origin) is None
    assert at_first(origin, asks=True).kind is at_first(origin, asks=False).kind is Kind.UNKNOWN


def test_a_document_with_an_oidc_endpoint_is_a_workspaces() -> None:
    found = by_document(200, CONFIG)
    assert found is not None
    assert found.kind is Kind.DATABRICKS


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b'{"error_code": "ENDPOINT_NOT_FOUND"}', "404"),
        (404, CONFIG, "404"),
        (201, CONFIG, "201"),
        (204, b"", "204"),
        (400, b"", "400"),
        (401, b"", "401"),
        (403, b"", "403"),
        (302, b"", "redirect"),
        (307, CONFIG, "redirect"),
        (200, b"<html>Sign in</html>", "login page"),
        (200, b"", "no JSON"),
        (200, gzip.compress(CONFIG, mtime=0), "no JSON"),
        (200, CONFIG[:-1], "no JSON"),
        (200, b"[" + CONFIG + b"]", "no JSON"),
        (200, b'"oidc_endpoint"', "no JSON"),
        (200, b"[" * 100_000, "no JSON"),
        (200, b"{}", "no oidc_endpoint"),
        (200, b'{"oidc_endpoint": null}', "no oidc_endpoint"),
        (200, b'{"oidc_endpoint": ""}', "no oidc_endpoint"),
        (200, b'{"oidc_endpoint": {"url": "https://w"}}', "no oidc_endpoint"),
        (200, b'{"OIDC_ENDPOINT": "https://w"}', "no oidc_endpoint"),
        (200, b'{"config": ' + CONFIG + b"}", "no oidc_endpoint"),
    ],
)
def test_every_other_definite_answer_is_another_servers(status: int, body: bytes, reason: str) -> None:
    found = by_document(status, body)
    assert found is not None
    assert found.kind is Kind.OTHER
    assert reason in found.reason


@given(status=st.sampled_from([407, 408, 429]) | st.integers(500, 599), body=st.sampled_from([CONFIG, b""]))
def test_what_is_about_the_way_or_the_moment_proves_nothing(status: int, body: bytes) -> None:
    assert by_document(status, body) is None


@given(status=st.integers(200, 599), body=st.binary() | st.just(CONFIG))
def test_nothing_but_the_document_makes_a_workspace(status: int, body: bytes) -> None:
    found = by_document(status, body)
    assert (found is not None and found.kind is Kind.DATABRICKS) == ((status, body) == (200, CONFIG))


# -- asking ----------------------------------------------------------------------------------------

DATABRICKS = UpstreamKind(Kind.DATABRICKS, "it says so")
OTHER = UpstreamKind(Kind.OTHER, "it says 404")


class Upstream:
    """Answers one after the other, then no more; notes when it was asked."""

    def __init__(self, answers: Iterable[UpstreamKind | None]) -> None:
        self._answers = iter(answers)
        self.asked: list[float] = []
        self.seen: list[Kind] = []
        self.known = KnownUpstream(at_first("http://upstream", asks=True))
        self.told: list[UpstreamKind] = []

    def changed(self) -> None:
        self.told.append(self.known.current)

    async def ask(self) -> UpstreamKind | None:
        self.asked.append(asyncio.get_running_loop().time())
        self.seen.append(self.known.current.kind)
        try:
            return next(self._answers)
        except StopIteration:
            raise EndError from None


class EndError(Exception):
    """No more answers."""


def asked(answers: Iterable[UpstreamKind | None], lifetime: float = 3600, jitter: float = 0.0) -> Upstream:
    """Ask until there are no more answers."""

    async def main() -> Upstream:
        upstream, clock = Upstream(answers), asyncio.get_running_loop().time
        with pytest.raises(EndError):
            await Discovery(
                upstream.known, upstream.ask, lifetime, lambda: jitter, upstream.changed, clock
            ).keep_asking()
        return upstream

    return virtual_time.run(main())


def test_it_asks_at_once_and_then_when_the_answer_is_old() -> None:
    assert asked([DATABRICKS] * 3, lifetime=3600, jitter=0.3).asked == [0, 3600, 7200, 10800]


def test_an_answer_grows_old_while_the_machine_sleeps() -> None:
    async def main() -> None:
        upstream, loop, slept = Upstream([DATABRICKS, DATABRICKS]), asyncio.get_running_loop(), 0.0

        def nod_off() -> None:
            nonlocal slept
            slept += 8 * 3600

        loop.call_later(1000, nod_off)
        with pytest.raises(EndError):
            await Discovery(
                *(upstream.known, upstream.ask, 3600, lambda: 0.0, upstream.changed),
                lambda: loop.time() + slept,
            ).keep_asking()
        assert upstream.asked[0] == 0
        assert 1000 <= upstream.asked[1] <= 1010
        assert upstream.asked[2] == upstream.asked[1] + 3600

    virtual_time.run(main())


def test_what_finds_no_workspace_grows_old_by_and_by() -> None:
    found = [OTHER] * 8
    moments = asked(found, lifetime=3600, jitter=0.3).asked
    assert [b - a for a, b in pairwise(moments)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_gateway_that_answers_for_a_starting_workspace_costs_a_minute() -> None:
    upstream = asked([OTHER, DATABRICKS, OTHER, DATABRICKS], lifetime=3600)
    assert upstream.asked == [0, 60, 3660, 3720, 7320]
    assert upstream.told == [OTHER, DATABRICKS, OTHER, DATABRICKS]


@pytest.mark.parametrize("lifetime", [0.0, 1.0, 60.0])
def test_an_answer_counts_for_a_minute_at_least(lifetime: float) -> None:
    assert asked([DATABRICKS, DATABRICKS], lifetime).asked == [0, 60, 120]


def test_without_an_answer_it_asks_again_with_growing_pauses() -> None:
    moments = asked([None] * 9, jitter=1.0).asked
    assert [b - a for a, b in pairwise(moments)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(st.floats(0, 1, exclude_max=True))
def test_pauses_are_spread_between_half_and_whole(jitter: float) -> None:
    moments = asked([None] * 3, jitter=jitter).asked
    for wait, whole in zip([b - a for a, b in pairwise(moments)], [1, 2, 4], strict=True):
        assert whole / 2 - 1e-6 <= wait <= whole


def test_no_answer_leaves_what_is_known_and_the_pauses_begin_anew() -> None:
    upstream = asked([None, None, DATABRICKS, None, None, OTHER], lifetime=100, jitter=1.0)
    unknown, databricks, other = Kind.UNKNOWN, Kind.DATABRICKS, Kind.OTHER
    assert upstream.seen == [unknown, unknown, unknown, databricks, databricks, databricks, other]
    assert upstream.asked == [0, 1, 3, 103, 104, 106, 166]


def test_a_change_is_told_once_and_why() -> None:
    elsewhere = UpstreamKind(Kind.OTHER, "it says 403")
    upstream = asked([None, DATABRICKS, DATABRICKS, OTHER, elsewhere, None, DATABRICKS])
    assert upstream.told == [DATABRICKS, OTHER, DATABRICKS]
    assert upstream.known.current == DATABRICKS
    assert upstream.known.current.is_databricks


def test_the_reason_is_the_latest() -> None:
    known = KnownUpstream(NOT_ASKED)
    assert known.learn(OTHER)
    assert not known.learn(UpstreamKind(Kind.OTHER, "it says 403"))
    assert known.current.reason == "it says 403"


@pytest.mark.parametrize("found", [DATABRICKS, OTHER, NOT_ASKED])
def test_how_answers_are_shared_follows_the_kind_only_where_it_is_left_open(found: UpstreamKind) -> None:
    proven = found.kind is Kind.DATABRICKS
    auto = in_force("auto", found)
    assert auto.mode == ("proven" if proven else "credential")
    assert found.reason in auto.reason
    fixed: tuple[Setting, ...] = ("credential", "proven", "service")
    assert [in_force(setting, found).mode for setting in fixed] == list(fixed)


@pytest.mark.parametrize(("takes", "held_up"), [(0.3, 0.3), (30.0, HEAD_START)])
def test_a_start_waits_for_the_first_answer_a_moment_at_most(takes: float, held_up: float) -> None:
    async def main() -> None:
        known = KnownUpstream(at_first("http://upstream", asks=True))

        async def ask() -> UpstreamKind | None:
            await asyncio.sleep(takes)
            return DATABRICKS

        loop = asyncio.get_running_loop()
        began = loop.time()
        async with Discovery(known, ask, 3600, lambda: 0.0, lambda: None, loop.time).watching():
            assert loop.time() - began == pytest.approx(held_up)
            assert known.current.is_databricks == (takes == held_up)

    virtual_time.run(main())
