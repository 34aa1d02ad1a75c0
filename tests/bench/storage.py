"""The emulated storage in a process of its own.

What belongs here: keeping ten thousand files' bytes off the event loop that notes when calls arrive, since an
arrival noted late looks closer to the next one. A cloud's storage is not the workspace's machine either.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.signing import Signer
from mlflow_proxy.demo.storage import EmulatedStorage


class StorageProcess(EmulatedStorage):
    """Signs here, serves elsewhere, the `models` of the moment it starts; `arrivals` stays empty."""

    def __init__(self, host: str, port: int, **options: Any) -> None:
        super().__init__(host, port, **options)
        self._elsewhere = ""
        self._pipe: Connection | None = None
        self._process: SpawnProcess | None = None

    @property
    def url(self) -> str:
        """The origin of the other process's storage."""
        return self._elsewhere

    async def start(self) -> None:
        """Start the process and learn where it listens."""
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(theirs, self._host, self._signer, dict(self._models)), daemon=True
        )
        await asyncio.to_thread(self._process.start)
        theirs.close()
        self._elsewhere = await asyncio.to_thread(self._pipe.recv)

    async def stop(self) -> None:
        """Let the process end: it listens as long as the pipe is open."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            await asyncio.to_thread(self._process.join)
            self._process = None


def _run(pipe: Connection, host: str, signer: Signer, models: Mapping[str, Model]) -> None:
    os.nice(10)  # like the clients, it takes no processor from the workspace
    asyncio.run(_serve(pipe, host, signer, models))


async def _serve(pipe: Connection, host: str, signer: Signer, models: Mapping[str, Model]) -> None:
    storage = EmulatedStorage(
        host, 0, signer=signer, models=models, clock=time.time, monotonic=time.monotonic
    )
    await storage.start()
    try:
        pipe.send(storage.url)
        await asyncio.to_thread(pipe.poll, None)
    finally:
        await storage.stop()
