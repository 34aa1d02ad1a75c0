"""`mlflow-proxy demo`: an emulated workspace, and a storm of real clients without and with the proxy.

What belongs here: the options and the order of events.
"""

import asyncio
import contextlib
import shlex
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import aiohttp
from aiolimiter import AsyncLimiter
from prometheus_client.parser import text_string_to_metric_families
from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.text import Text

from mlflow_proxy import logs
from mlflow_proxy.demo.display import Outcome, Progress, Scale, counted, result_table
from mlflow_proxy.demo.journal import Arrivals
from mlflow_proxy.demo.models import Model, storm_model
from mlflow_proxy.demo.storm import Door, check_python, default_python, door_variables, real_clients
from mlflow_proxy.demo.tokens import dealt, proofs
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, CommandSettings, Seconds, Settings, parse

OUTSIDER = "outside-traffic"
"""The token of calls that do not come through the proxy."""
_URI = "models:/storm/1"


class DemoSettings(CommandSettings):
    """Storm an emulated workspace with real MLflow clients, first without, then with the proxy."""

    model_config = SettingsConfigDict(cli_prog_name="mlflow-proxy demo", cli_avoid_json=True)

    clients: int = Field(4, ge=1, le=200, description="MLflow processes at once")
    tokens: int | None = Field(
        None, ge=1, description="different tokens that the clients use; without it one for each, as jobs have"
    )
    files: int = Field(204, ge=1, description="files of the model")
    directories: int = Field(22, ge=1, description="directories of the model, its root included")
    door: Door = Field(
        "b", description="how clients reach the proxy: a is a plain URL, b the databricks scheme"
    )
    limiter: Literal["sliding", "fixed", "token-bucket", "batch-reported"] = Field(
        "sliding", description="how the workspace counts calls"
    )
    limit: int = Field(40, ge=1, description="registry calls a second that the workspace allows")
    retry_after: bool = Field(False, description="whether the workspace's 429s say when to retry")
    latency: Seconds = Field(0.03, description="seconds that the workspace takes for an answer")
    outside_qps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0, description="registry calls a second of other clients, which do not use the proxy"
    )
    # Absolute, since each client has a working directory of its own; links stay, they are what a venv is.
    client_python: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default_factory=default_python, description="interpreter that has mlflow (default: this one)"
    )
    skip_without: bool = Field(False, description="leave out the storm without the proxy, which is slow")
    keep: bool = Field(False, description="leave workspace and proxy running until Ctrl-C")


def run(arguments: Sequence[str]) -> int:
    """Run the demo; 0 when every client through the proxy has every byte. Raises InvalidSettingsError."""
    settings = parse(DemoSettings, arguments)
    if settings.directories > settings.files:
        raise InvalidSettingsError(
            f"directories: each of the {settings.directories} needs a file, and there are {settings.files}; "
            "give fewer --directories or more --files"
        )
    if settings.tokens is not None and settings.tokens > settings.clients:
        raise InvalidSettingsError(
            f"tokens: {settings.tokens} tokens need as many clients, and there are {settings.clients}; "
            "give fewer --tokens or more --clients"
        )
    logs.configure("error", "auto")
    try:
        return asyncio.run(_Demo(settings, Console(highlight=False)).run())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


class _Demo:
    """One run of the demo."""

    def __init__(self, settings: DemoSettings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._model: Model = storm_model(files=settings.files, directories=settings.directories)
        self._files = self._model.versions["1"].files
        self._different = settings.tokens or settings.clients
        self._tokens = dealt(settings.clients, self._different)

    async def run(self) -> int:
        """Storm without the proxy, storm with it, show both."""
        settings = self._settings
        task = asyncio.current_task()
        if task is not None:
            with contextlib.suppress(NotImplementedError):  # Windows
                # As with Ctrl-C, so that no client is left behind.
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        version = await check_python(settings.client_python)
        self._say(
            f"{settings.clients} real clients (mlflow {version}) with {counted(self._different, 'token')} "
            f"download {_URI} at once: {settings.files} files in {settings.directories} directories, from an "
            f"emulated workspace that allows {settings.limit} registry calls a second ({settings.limiter})."
        )
        outcomes = []
        if not settings.skip_without:
            async with self._workspace() as workspace:
                outcomes.append(await self._storm("without proxy", "b", workspace, workspace.url))
        async with self._workspace() as workspace, serving(self._proxy(workspace.url)) as url:
            outcomes.append(await self._storm("with proxy", settings.door, workspace, url))
            self._say(f"The proxy shared answers in mode {await sharing_by_proxy(url)}.")
            self._report(outcomes)
            self._hand_over(url)
            if settings.keep:
                self._say("Workspace and proxy are running; Ctrl-C ends them.")
                await asyncio.Event().wait()
        return 1 if outcomes[-1].failures else 0

    def _proxy(self, upstream: str) -> Settings:
        return Settings(
            upstream=upstream,
            host="127.0.0.1",
            port=0,
            shutdown_grace=0,
            budget=BudgetSettings(registry_limit=self._settings.limit),
        )

    @asynccontextmanager
    async def _workspace(self) -> AsyncIterator[EmulatedWorkspace]:
        settings = self._settings
        options = WorkspaceOptions(
            limiter=settings.limiter,
            limit=settings.limit,
            retry_after=settings.retry_after,
            latency=settings.latency,
            tokens=frozenset({*self._tokens, OUTSIDER}),
        )
        async with EmulatedWorkspace([self._model], options) as workspace:
            if not settings.outside_qps:
                yield workspace
                return
            async with outside_traffic(workspace.url, settings.outside_qps):
                yield workspace

    async def _storm(self, title: str, door: Door, workspace: EmulatedWorkspace, url: str) -> Outcome:
        settings = self._settings
        environments = [door_variables(door, url, token) for token in self._tokens]
        async with real_clients(settings.client_python, _URI, environments) as clients:
            workspace.reset()
            began = time.monotonic()
            progress = Progress(title, clients, settings.files, lambda: _of_clients(workspace))
            async with progress.shown(self._console):
                await asyncio.gather(*(client.download() for client in clients))
            seconds = time.monotonic() - began
            for client in clients:
                client.compare(self._files)
            failures = [
                f"client {number}: {client.failure}"
                for number, client in enumerate(clients, start=1)
                if client.failure
            ]
        arrivals = _of_clients(workspace)
        refused = arrivals.statuses()[429]
        seen = refused if url == workspace.url else await refusals_by_proxy(url)
        self._say(
            f"{title}: done in {seconds:.1f} s; every byte of {settings.files} files compared "
            f"for each client, {settings.clients - len(failures)} of {settings.clients} complete."
        )
        return Outcome(
            title=title,
            seconds=seconds,
            calls=len(arrivals),
            distinct=arrivals.distinct(),
            refused=refused,
            seen=seen,
            busiest_second=arrivals.max_in_window(),
            failures=failures,
        )

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        settings = self._settings
        scale = Scale(
            clients=settings.clients,
            tokens=self._different,
            distinct=settings.files + settings.directories,
            proofs=proofs(self._different),
            limit=settings.limit,
        )
        self._console.print()
        self._console.print(result_table(outcomes, scale))
        for outcome in outcomes:
            for failure in outcome.failures:
                self._say(f"{outcome.title}, {failure}")
        if not settings.skip_without:
            self._say(
                "Without the proxy, each further client makes it slower for all; so these are few. "
                "The bench in the README storms with 50."
            )

    def _hand_over(self, url: str) -> None:
        python = shlex.quote(str(self._settings.client_python))
        if self._settings.keep:
            self._say("\nTry it by hand, in another terminal, by either door:")
        else:
            self._say(
                "\nTo try it by hand, run mlflow-proxy demo --keep, which prints these lines with an address:"
            )
            url = "http://127.0.0.1:PORT"
        doors: tuple[tuple[Door, str], ...] = (("a", "a plain http URL"), ("b", "the databricks scheme"))
        for door, name in doors:
            variables = door_variables(door, url, self._tokens[0])
            lines = " ".join(f"{key}={value}" for key, value in variables.items())
            self._say(f"\n# Door {door.upper()}, {name}\nexport {lines}")
        self._say(f'\n{python} -c "import mlflow; print(mlflow.artifacts.download_artifacts({_URI!r}))"\n')

    def _say(self, text: str) -> None:
        # Wrapped lines could not be pasted.
        self._console.print(Text(text), soft_wrap=True)


def _of_clients(workspace: EmulatedWorkspace) -> Arrivals:
    return Arrivals(arrival for arrival in workspace.registry_arrivals if arrival.token != OUTSIDER)


@asynccontextmanager
async def outside_traffic(url: str, qps: float) -> AsyncIterator[None]:
    """Let others spend `qps` of the workspace's budget, evenly spaced, while the context lasts."""
    others = asyncio.create_task(_outside_calls(url, qps))
    try:
        yield
    finally:
        others.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await others


async def _outside_calls(url: str, qps: float) -> None:
    pace = AsyncLimiter(1, 1 / qps)
    headers = {"Authorization": f"Bearer {OUTSIDER}"}
    async with aiohttp.ClientSession(url, headers=headers) as session, asyncio.TaskGroup() as calls:
        while True:
            await pace.acquire()
            calls.create_task(_call(session))


async def _call(session: aiohttp.ClientSession) -> None:
    async with session.get("/api/2.0/mlflow/registered-models/get?name=storm") as response:
        await response.read()


async def sharing_by_proxy(url: str) -> str:
    """Return the mode in which the proxy shares answers, and why, from its status."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/-/status.json") as response:
        sharing = (await response.json())["sharing"]
    return f"{sharing['mode']} ({sharing['reason']})"


async def refusals_by_proxy(url: str) -> int:
    """Count the 429s that the proxy answered, from its metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/-/metrics") as response:
        text = await response.text()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return int(
        sum(
            sample.value
            for sample in samples
            if sample.name == "mlflow_proxy_requests_total" and sample.labels["status"] == "429"
        )
    )
