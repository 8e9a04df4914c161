"""Programs run as a user runs them, and what the system knows of their processes; for the tests."""

from __future__ import annotations

import codecs
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import manyhands as mh

# Long enough for a machine that does ten other things: it ends tests that hang, and measures nothing.
PATIENCE_S = 120.0


def until(predicate, what, patience_s=PATIENCE_S):
    """Wait for something to become true; fail if it does not."""
    deadline = time.monotonic() + patience_s
    while not (found := predicate()):
        assert time.monotonic() < deadline, f"still not so after {patience_s} s: {what}"
        time.sleep(0.01)
    return found


def shared_info():
    """What of shared memory is in use, but for what earlier tests left in cycles: that goes at any moment."""
    gc.collect()
    return mh.shared.info()


def stat(pid):
    """State, parent and session of a process; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[3])


def is_alive(pid):
    """Whether a process exists and has not ended."""
    found = stat(pid)
    return found is not None and found[0] not in "ZX"


def processes():
    """All that there are."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(parent):
    """The processes that a process has started and has not buried."""
    found = ((pid, stat(pid)) for pid in processes())
    return {pid for pid, facts in found if facts is not None and facts[1] == parent}


def session_members(session):
    """The live processes of a session, other than its leader; wherever their parents are."""
    members = []
    for pid in processes():
        found = stat(pid)
        if pid != session and found is not None and found[2] == session and found[0] not in "ZX":
            members.append(pid)
    return members


class Outcome:
    """How a program ended."""

    def __init__(self, returncode, stdout, stderr):
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self):
        return f"exit code {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Program:
    """A program in a session of its own, so that nothing it starts can hide."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            command,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
        self.pid = self.process.pid
        self._written = {"stdout": "", "stderr": ""}
        self._readers = [self._reader("stdout"), self._reader("stderr")]

    def _reader(self, name):
        stream = getattr(self.process, name)

        def read():
            # As it comes, whole lines or not.
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            while data := os.read(stream.fileno(), 1 << 16):
                self._written[name] += decoder.decode(data)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        return reader

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for pid in [self.pid, *session_members(self.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        for reader in self._readers:
            reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()

    @property
    def stdout(self):
        return self._written["stdout"]

    def wait_for(self, text, patience_s=PATIENCE_S):
        """Wait until the program has printed something."""
        deadline = time.monotonic() + patience_s
        while text not in self._written["stdout"]:
            if self.process.poll() is not None:
                for reader in self._readers:
                    reader.join(5)
                if text in self._written["stdout"]:
                    return
                pytest.fail(f"ended before it printed {text!r}: {self._outcome()}")
            if time.monotonic() > deadline:
                self._give_up(f"did not print {text!r}")
            time.sleep(0.005)

    def wait(self, patience_s=PATIENCE_S):
        """Wait for the end of the program, and of everything that holds its output."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._give_up("did not end")
        for reader in self._readers:
            reader.join(patience_s)
            assert not reader.is_alive(), f"something still holds the output: {self._outcome()}"
        return self._outcome()

    def _outcome(self):
        return Outcome(self.process.poll(), self._written["stdout"], self._written["stderr"])

    def _give_up(self, what):
        # faulthandler prints where every thread is.
        self.process.send_signal(signal.SIGABRT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        time.sleep(0.2)
        pytest.fail(f"{what} in time: {self._outcome()}")

    def signal_all(self, number):
        """Signal the program and all it has started, as a terminal does."""
        os.killpg(self.pid, number)

    def workers(self):
        """What the program has started and is alive."""
        return session_members(self.pid)


def write(folder, source, name="program.py"):
    """Write a program into a folder."""
    path = Path(folder) / name
    path.write_text(textwrap.dedent(source))
    return path


def start(folder, source, *args, **options):
    """Start a program; use it in a ``with`` statement."""
    path = write(folder, source)
    return Program([sys.executable, "-X", "faulthandler", str(path), *map(str, args)], **options)


def run(folder, source, *args, **options):
    """Run a program to its end."""
    with start(folder, source, *args, **options) as program:
        return program.wait()


def check(outcome, stdout=None):
    """Assert that a program has ended well, without a word to standard error."""
    assert outcome.returncode == 0, outcome
    assert outcome.stderr == "", outcome
    if stdout is not None:
        assert outcome.stdout == stdout, outcome
