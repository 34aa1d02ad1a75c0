"""How the proxy's own credential is kept: when it is fetched, by whom, and what a file says meanwhile."""

import asyncio
import base64
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.access import credential
from mlflow_proxy.access.credential import PAUSE, Credential, Fetched, TokenFile, bearer, due
from mlflow_proxy.access.files import WatchedFile
from mlflow_proxy.access.threads import MOST_ABANDONED, Blocking
from mlflow_proxy.errors import CredentialUnavailableError, InvalidSettingsError
from mlflow_proxy.files import INTERVAL

moments = st.floats(0, 1e9)


def jwt(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


class Source:
    """Gives out one credential after another; what it is asked waits while ``held``."""

    def __init__(self, clock: Clock, lifetime: float | None) -> None:
        self.clock, self.lifetime = clock, lifetime
        self.calls = 0
        self.fails = self.repeats = False
        self.go = threading.Event()
        self.go.set()

    def __call__(self) -> Credential:
        self.calls += 1
        number = 0 if self.repeats else self.calls
        self.go.wait()
        if self.fails:
            raise CredentialUnavailableError("the reason")
        expires_at = None if self.lifetime is None else self.clock.now + self.lifetime
        return Credential((("Authorization", f"Bearer {number}"),), expires_at)


async def made(lifetime: float | None) -> tuple[Clock, Source, Fetched]:
    clock = Clock()
    source = Source(clock, lifetime)
    return clock, source, Fetched(source, "mend it", clock=clock, wall_clock=clock)


def token(found: Credential | None) -> str | None:
    return None if found is None else found.headers[0][1].removeprefix("Bearer ")


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - of threads, which set no event here
        await asyncio.sleep(0.001)


def threads_running() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "mlflow-proxy-access"]


# -- the credential --------------------------------------------------------------------------------


@given(moments, moments)
def test_the_next_is_fetched_before_the_end_and_not_at_once(fetched_at: float, lifetime: float) -> None:
    at = due(fetched_at, fetched_at + lifetime)
    assert fetched_at <= at <= fetched_at + lifetime
    assert fetched_at + lifetime - at <= 1200.001


def test_what_is_late_already_is_due() -> None:
    assert due(10.0, 5.0) == 5.0


def test_a_token_may_say_when_it_ends_and_whose_it_is() -> None:
    one, other = bearer(jwt(sub="p", exp=5, iat=1, jti="x")), bearer(jwt(sub="p", exp=9, iat=2, jti="y"))
    assert (one.expires_at, other.expires_at) == (5.0, 9.0)
    assert one.identity == other.identity
    assert one != other
    assert Credential(one.headers, 7.0).expires_at == 7.0


@pytest.mark.parametrize("claims", [{"sub": "q"}, {"sub": "p", "group": "g"}, {"sub": "p", "scope": "s"}, {}])
def test_other_claims_are_somebody_else(claims: dict[str, Any]) -> None:
    assert bearer(jwt(**claims, exp=5)).identity != bearer(jwt(sub="p", exp=5)).identity


@pytest.mark.parametrize(
    "odd",
    [
        *("dapi1", "a.b.c", "..", f"e30.{'!' * 4}.x", jwt(exp=True), jwt(exp="5"), "e30.W10.x"),
        *(
            jwt(exp=10**400),
            jwt(exp=-1),
            jwt(exp=float("nan")),
            jwt(exp=float("inf")),
            "e30." + "W1tb" * 2000 + ".x",
        ),
    ],
)
def test_tokens_that_say_nothing(odd: str) -> None:
    assert bearer(odd).expires_at is None
    assert bearer(odd).identity != bearer(odd + "x").identity


def test_a_credential_is_not_shown() -> None:
    assert "dapi1" not in repr(bearer("dapi1"))


# -- fetched ---------------------------------------------------------------------------------------


async def test_all_who_wait_share_one_fetch() -> None:
    _, source, fetched = await made(3600)
    source.go.clear()
    waiting = [asyncio.create_task(fetched.current()) for _ in range(20)]
    await until(lambda: source.calls)
    waiting[0].cancel()  # whoever began it may leave
    source.go.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {token(each) for each in results[1:] if isinstance(each, Credential)} == {"1"}
    assert source.calls == 1
    await fetched.close()


async def test_nobody_waits_for_the_next_while_there_is_one() -> None:
    clock, source, fetched = await made(3600)
    assert token(await fetched.current()) == "1"
    clock.now += 2399
    assert token(await fetched.current()) == "1"
    assert source.calls == 1
    source.go.clear()
    clock.now += 2
    assert {token(await fetched.current()) for _ in range(5)} == {"1"}
    source.go.set()
    await fetched._begin()
    assert token(await fetched.current()) == "2"
    assert source.calls == 2


async def test_a_failing_refresh_keeps_what_there_is_until_it_expires() -> None:
    clock, source, fetched = await made(100)
    await fetched.current()
    source.fails = True
    for calls, passed in enumerate((50.0, 50.0 + PAUSE, 99.9), 2):
        clock.now = 1e9 + passed
        for _ in range(3):
            assert token(await fetched.current()) == "1"
            await until(lambda: not threads_running())
            await asyncio.sleep(0.001)
        assert source.calls == calls, "failing is not repeated at once"
    clock.now = 1e9 + 100
    clock.now += PAUSE
    with pytest.raises(CredentialUnavailableError):
        await fetched.current()


async def test_without_one_fetches_that_fail_are_paced_and_said() -> None:
    clock, source, fetched = await made(100)
    source.fails = True
    for _ in range(3):
        with pytest.raises(CredentialUnavailableError, match="mend it"):
            await fetched.current()
    assert source.calls == 1
    clock.now += PAUSE
    source.fails = False
    assert token(await fetched.current()) == "2"


async def test_what_comes_expired_is_used_for_a_moment() -> None:
    """By a clock that is fast everything has expired; that is no reason to fetch for each call."""
    clock, _, fetched = await made(-3600)
    for _ in range(3):
        assert token(await fetched.current()) == "1"
        await asyncio.sleep(0)
    clock.now += 1
    assert int(token(await fetched.current()) or 0) > 1


@pytest.mark.parametrize("set_by", [-1e6, 0.0, 1e6])
async def test_a_wall_clock_that_is_set_makes_no_credential_live_longer_or_shorter(set_by: float) -> None:
    clock, wall = Clock(), Clock()
    source = Source(wall, 3600)
    fetched = Fetched(source, "mend it", clock=clock, wall_clock=wall)
    assert token(await fetched.current()) == "1"
    wall.now += set_by
    for passed, current in ((2399.0, "1"), (1201.0, "2")):
        clock.now += passed
        assert token(await fetched.current()) == current
    # The clock said that the first had ended, and by the other one the second has as long again.
    clock.now += 2399
    assert token(await fetched.current()) == "2"
    assert source.calls == 2
    await fetched.close()


async def test_a_refused_one_is_replaced_once_for_all_and_not_for_ever() -> None:
    clock, source, fetched = await made(None)
    first = await fetched.current()
    found = await asyncio.gather(*(fetched.renewed(first) for _ in range(10)))
    assert {token(each) for each in found} == {"2"}
    second = await fetched.current()
    assert token(await fetched.renewed(first)) == "2", "somebody else has replaced it"
    assert await fetched.renewed(second) is None, "the next is no better, so soon after"
    assert source.calls == 2
    clock.now += PAUSE
    assert token(await fetched.renewed(second)) == "3"


async def test_the_same_again_is_no_replacement() -> None:
    clock, source, fetched = await made(None)
    source.repeats = True
    first = await fetched.current()
    assert await fetched.renewed(first) is None
    clock.now += PAUSE
    source.fails = True
    assert await fetched.renewed(first) is None
    assert await fetched.current() == first


async def test_a_fetch_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential, "FETCH_LIMIT", 0.01)
    clock, source, fetched = await made(None)
    source.go.clear()
    for _ in range(MOST_ABANDONED + 3):
        with pytest.raises(CredentialUnavailableError):
            await fetched.current()
        clock.now += PAUSE
    assert source.calls <= MOST_ABANDONED + 1, "threads that hang are bounded"
    source.go.set()
    await until(lambda: not threads_running())
    monkeypatch.setattr(fetched._fetch, "_limit", 20)
    assert await fetched.current()


async def test_closing_ends_what_waits() -> None:
    _, source, fetched = await made(None)
    source.go.clear()
    waiting = asyncio.create_task(fetched.current())
    await until(lambda: source.calls)
    await fetched.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    source.go.set()


async def test_the_event_loop_goes_on_meanwhile() -> None:
    inside, go = threading.Event(), threading.Event()

    def block() -> int:
        inside.set()
        go.wait()
        return 1

    call = Blocking(block, 20)
    waiting = asyncio.create_task(call())
    await until(inside.is_set)
    go.set()  # which nobody could do if the loop were held up
    assert await waiting == 1


async def test_one_blocking_call_is_for_all_who_ask_and_outlives_each() -> None:
    calls, go = 0, threading.Event()

    def block() -> int:
        nonlocal calls
        calls += 1
        go.wait()
        return calls

    call = Blocking(block, 20)
    first, second = asyncio.create_task(call()), asyncio.create_task(call())
    await until(lambda: calls)
    first.cancel()
    await asyncio.sleep(0)
    go.set()
    assert await second == 1
    assert first.cancelled()


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("one")
    return path


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


async def seen(file: TokenFile, clock: Clock) -> str | None:
    """Return what a later look at the file finds."""
    clock.now += INTERVAL
    return token(await file.current())


async def test_a_replaced_file_counts_at_the_next_look(path: Path) -> None:
    clock = Clock()
    file = TokenFile(path, clock=clock)
    replace(path, "two")
    clock.now += INTERVAL / 2
    assert token(await file.current()) == "one", "it is not looked at more than once a second"
    assert await seen(file, clock) == "two"


@pytest.mark.parametrize(
    ("ask", "later"),
    [(WatchedFile[bytes].current, INTERVAL), (WatchedFile[bytes].reread, INTERVAL / 1000)],
)
async def test_who_joins_a_look_that_is_under_way_does_not_believe_what_it_saw_before(
    path: Path, ask: Callable[[WatchedFile[bytes]], Awaitable[bytes]], later: float
) -> None:
    """Not if it is older than a second; and not at all if what was read last has been refused."""
    clock, reading, may_go_on = Clock(), threading.Event(), threading.Event()

    def slowly(data: bytes) -> bytes:
        if data == b"two":
            reading.set()
            may_go_on.wait()
        return data

    file = WatchedFile(path, slowly, "a.setting", clock=clock)
    replace(path, "two")
    clock.now += INTERVAL
    first = asyncio.create_task(file.current())
    await asyncio.to_thread(reading.wait)
    replace(path, "three")
    clock.now += later
    second = asyncio.ensure_future(ask(file))
    await asyncio.sleep(0)
    may_go_on.set()
    assert (await first, await second) == (b"two", b"three")


async def test_a_file_written_in_place_counts_when_it_rests(path: Path) -> None:
    """The first look may fall between two writes: "tw" is a token as good as any."""
    clock = Clock()
    file = TokenFile(path, clock=clock, wall_clock=lambda: 0.0)
    with path.open("w") as writing:
        assert await seen(file, clock) == "one"
        writing.write("tw")
        writing.flush()
        assert await seen(file, clock) == "one"
        writing.write("o!")
    assert await seen(file, clock) == "one"
    assert await seen(file, clock) == "two!"


async def test_what_was_written_in_place_long_ago_counts_at_the_next_look(path: Path) -> None:
    """Nobody may have asked since, so that no look found it growing."""
    clock = Clock()
    file = TokenFile(path, clock=clock)
    in_place(path, "other")
    os.utime(path, (1.0, 1.0))
    assert await seen(file, clock) == "other"


async def test_what_is_refused_is_read_again_at_once(path: Path) -> None:
    clock = Clock()
    file = TokenFile(path, clock=clock)
    refused = await file.current()
    assert await file.renewed(refused) is None
    in_place(path, "other")
    assert token(await file.renewed(refused)) == "other"
    assert token(await file.renewed(refused)) == "other"


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: replace(path, ""), lambda path: replace(path, "a\nb")]
)
async def test_a_spoiled_file_keeps_its_word(path: Path, spoil: Callable[[Path], None]) -> None:
    clock = Clock()
    file = TokenFile(path, clock=clock)
    spoil(path)
    assert await seen(file, clock) == "one"
    assert await seen(file, clock) == "one"
    replace(path, " two\r\n")
    await seen(file, clock)  # the file system may give it the inode of the one that has gone
    assert await seen(file, clock) == "two"


async def test_a_link_that_is_turned_as_kubernetes_does(path: Path, tmp_path: Path) -> None:
    clock = Clock()
    link = tmp_path / "link"
    link.symlink_to(path)
    file = TokenFile(link, clock=clock)
    other = tmp_path / "other"
    other.write_text("two")
    times = os.stat(path).st_mtime_ns
    os.utime(other, ns=(times, times))  # the same size and time: only the inode tells
    turned = tmp_path / "turned"
    turned.symlink_to(other)
    turned.replace(link)
    assert await seen(file, clock) == "two"


async def test_a_look_that_hangs_keeps_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    read = 0

    def parse(data: bytes) -> bytes:
        nonlocal read
        read += 1
        if read > 1:
            go.wait()
        return data

    clock = Clock()
    file = WatchedFile(path, parse, "access.token_file", clock=clock)
    monkeypatch.setattr(file._look, "_limit", 0.01)
    replace(path, "two")
    clock.now += INTERVAL
    assert await file.current() == b"one"
    go.set()
    await until(lambda: not threads_running())
    await file.close()


def test_a_file_has_to_be_there_at_first(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidSettingsError, match=r"access\.token_file: .*absent cannot be used: No such file"
    ):
        TokenFile(tmp_path / "absent", clock=Clock())
    with pytest.raises(InvalidSettingsError, match="Is a directory"):
        TokenFile(tmp_path, clock=Clock())
