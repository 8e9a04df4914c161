"""Runs cases in a process of their own, so that a crash, a hang or a missing module costs one case and not the run.

The process is told the names of its cases and reports lines of JSON: the beginning of a case, what it found, the error
that ended it. A case that takes longer than its limit is killed with all its processes, and the next one begins in a
new process.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from benches.memory import end_family

Record = dict[str, Any]
N_STDERR_LINES = 3


class Reporter:
    """The side of the process that runs cases."""

    def __init__(self) -> None:
        # Whatever else prints, be it a library in a worker, must not get between the lines.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        sys.stdout.flush()
        os.dup2(2, 1)

    def _say(self, record: Record) -> None:
        print(json.dumps(record), file=self._out, flush=True)

    def run(self, name: str, case: Callable[[], Iterable[Record]]) -> None:
        """Run one case and report each of its records as it comes."""
        self._say({"begin": name})
        try:
            for record in case():
                self._say({"found": record})
        except Exception as failure:
            traceback.print_exc()
            text = " ".join(str(failure).split())
            self._say({"failed": f"{type(failure).__name__}: {text}"[:160]})
        self._say({"end": name})


@dataclass
class Deadline:
    """The moment until which what runs now may take."""

    at: float


def _lines(process: "subprocess.Popen[bytes]", deadline: Deadline) -> Iterator[str | None]:
    """The lines of a process until it ends; None each time the deadline is found to be over."""
    assert process.stdout is not None
    descriptor, rest = process.stdout.fileno(), b""
    os.set_blocking(descriptor, False)
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            is_over = process.poll() is not None
            selector.select(0 if is_over else 0.2)
            data: bytes | None = None
            with contextlib.suppress(BlockingIOError):
                data = os.read(descriptor, 1 << 16)
            if data:
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode() for line in lines)
            # Workers that outlive their parent may hold the pipe open: its own end is what counts.
            elif is_over or data == b"":
                return
            if time.monotonic() > deadline.at:
                yield None


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-N_STDERR_LINES:])[:160]


def supervise(
    command: list[str], names: list[str], limit_s: Callable[[str], float], end: float
) -> Iterator[tuple[str, Record]]:
    """Run the named cases, as `command NAME...`, and yield each case's name with what it found or ``{"failed": ...}``.

    Parameters
    ----------
    limit_s : callable
        How long a case may take; the start of the process counts towards its first case.
    end : float
        The moment, by `time.monotonic`, after which no case begins and none goes on.
    """
    # Who ends the benchmark ends what it started, too.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    todo = list(names)
    while todo:
        if time.monotonic() >= end:
            yield from ((name, {"failed": "not run: the time of the whole benchmark was over"}) for name in todo)
            return
        with tempfile.TemporaryFile() as errors:
            yield from _run_until_trouble([*command, *todo], todo, limit_s, end, errors)


def _run_until_trouble(
    command: list[str], todo: list[str], limit_s: Callable[[str], float], end: float, errors: IO[bytes]
) -> Iterator[tuple[str, Record]]:
    """Run one process; takes the cases that are over, whatever became of them, off `todo`."""
    deadline = Deadline(min(end, time.monotonic() + limit_s(todo[0])))
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process:
        try:
            for line in _lines(process, deadline):
                if line is None and not todo:
                    return
                if line is None:
                    yield todo.pop(0), {"failed": f"stopped after {time.monotonic() - began:.0f} s"}
                    return
                message = json.loads(line)
                if "begin" in message:
                    began = time.monotonic()
                    deadline.at = min(end, began + limit_s(message["begin"]))
                elif "end" in message:
                    todo.remove(message["end"])
                    # The time between cases is that of closing one engine and opening the next.
                    deadline.at = min(end, time.monotonic() + (limit_s(todo[0]) if todo else 30))
                elif "found" in message:
                    yield todo[0], message["found"]
                else:
                    yield todo[0], message
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        finally:
            end_family(process.pid)
    if todo:
        status, words = process.returncode, _last_words(errors)
        yield todo.pop(0), {"failed": f"the process ended with status {status}: {words}"}
