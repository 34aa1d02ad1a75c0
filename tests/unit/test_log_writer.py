"""Nothing that logs waits for its lines, and no error comes back."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from mlflow_proxy.log_writer import LogWriter

LINE = "a line\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return the end to read from and the one to write to, which is closed here."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)
    os.close(reader)


def fill(descriptor: int) -> int:
    """Write until nothing more is taken; returns the bytes that were."""
    os.set_blocking(descriptor, False)
    size = 0
    try:
        while True:
            size += os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
        return size


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


@pytest.mark.parametrize("background", [True, False])
def test_lines_are_written_in_order_each_by_one_call(background: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        lines = LogWriter(ours.fileno())
        expected = [
            f"line {number} \u00fc\udcff\n".encode(errors="backslashreplace") for number in range(100)
        ]
        if background:
            with lines.in_background():
                for number in range(100):
                    lines.write(f"line {number} \u00fc\udcff\n")
        else:
            for number in range(100):
                lines.write(f"line {number} \u00fc\udcff\n")
        assert [theirs.recv(4096) for _ in range(100)] == expected
        assert lines.dropped == 0


def test_a_reader_that_stands_still_holds_up_nothing(pipe: tuple[int, int]) -> None:
    """Nothing here ends if a line is waited for, but for a second at the end."""
    reader, writer = pipe
    filled = fill(writer)
    lines = LogWriter(writer, most=10)
    with lines.in_background():
        for number in range(1000):
            lines.write(f"{number:03}\n")
    assert lines.dropped in {989, 990}, "ten wait, and one perhaps is being written"
    said = read(reader, filled + 4 * (1000 - lines.dropped))[filled:].decode().split()
    assert said == sorted(said)
    assert said[0] == "000"


def test_a_process_without_the_thread_waits_for_one_line_only(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    lines = LogWriter(writer)
    for number in range(1000):  # takes a second, and not a thousand
        lines.write(f"{number:03}\n")
    assert lines.dropped == 0
    assert read(reader, filled + 4)[filled:] == b"000\n"


def test_a_reader_that_has_gone_breaks_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    lines = LogWriter(writer)
    lines.write(LINE)
    with lines.in_background():
        lines.write(LINE)
    os.close(writer)
    lines.write(LINE)
    assert lines.dropped == 3


def test_a_full_disk_breaks_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        lines = LogWriter(full.fileno())
        with lines.in_background():
            for _ in range(3):
                lines.write(LINE)
    assert lines.dropped == 3


def test_a_disk_that_was_full_leaves_no_line_in_the_middle_of_another(tmp_path: Path) -> None:
    """A limit of the process' files is a disk that fills and empties."""
    path = tmp_path / "log"
    script = f"""
import resource, signal
from mlflow_proxy.log_writer import LogWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open({str(path)!r}, "ab", buffering=0) as file:
    lines = LogWriter(file.fileno())
    lines.write("one\\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, resource.RLIM_INFINITY))
    lines.write("two\\n")
    lines.write("three\\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lines.write("four\\n")
    lines.write("five\\n")
    assert lines.dropped == 2, lines.dropped
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    assert path.read_text() == "one\ntw\nfour\nfive\n"


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    os.set_blocking(writer, False)
    lines = LogWriter(writer)
    with lines.in_background():
        lines.write(LINE)
        read(reader, filled)
        assert read(reader, len(LINE)) == LINE.encode()
    assert lines.dropped == 0


def test_what_waits_is_written_once_there_is_a_thread(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    lines = LogWriter(writer)
    for text in ("one\n", "two\n"):
        lines.write(text)
    with lines.in_background():
        lines.write("three\n")
        assert read(reader, filled + 14)[filled:] == b"one\ntwo\nthree\n"


def test_a_forked_process_says_nothing_of_its_parents(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    lines = LogWriter(writer)
    lines.write(LINE)  # waits for the reader
    lines.reset()
    with lines.in_background():
        lines.write("of the child\n")
        said = read(reader, filled + len(LINE) + 13)[filled:]
    assert sorted(said.splitlines()) == [b"a line", b"of the child"], "by the thread of the parent, once"
    assert not select.select([reader], [], [], 0)[0]


def test_no_thread_is_left_when_a_process_may_fork(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Thread] = []
    start = Thread.start

    def noted(thread: Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(Thread, "start", noted)
    lines = LogWriter(pipe[1])
    lines.write(LINE)
    with lines.in_background():
        lines.write(LINE)
    assert [each.is_alive() for each in started] == [False, False]


def test_without_threads_lines_wait(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    lines = LogWriter(pipe[1])
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", refuse)
        with lines.in_background():
            lines.write("one\n")
    lines.write("two\n")
    assert read(pipe[0], 8) == b"one\ntwo\n"
