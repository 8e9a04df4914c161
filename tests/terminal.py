"""Programs run in a terminal, and what a person sees there in the end; for the tests."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

from scripts import PATIENCE_S, session_members, write

_CONTROL = re.compile(r"\x1b\[\??(\d*)([A-Za-z])")


def screen(text, n_columns=None):
    """The lines that are left on a terminal of endless height, once all of this was written to it.

    Without a number of columns it is endlessly wide, too.
    """
    lines, row, column, at = [""], 0, 0, 0
    while at < len(text):
        control = _CONTROL.match(text, at)
        char = text[at]
        if control is not None:
            number, what = int(control[1] or 0), control[2]
            if what == "A":
                row = max(row - max(number, 1), 0)
            elif what == "K":
                lines[row] = lines[row][:column]
            elif what == "J":
                lines[row] = lines[row][:column]
                del lines[row + 1 :]
            else:
                assert what in "mhl", f"not known to these tests: {control[0]!r}"
            at = control.end()
            continue
        if char == "\r":
            column = 0
        elif char == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        else:
            if column == n_columns:
                row, column = row + 1, 0
                if row == len(lines):
                    lines.append("")
            line = lines[row].ljust(column)
            lines[row] = line[:column] + char + line[column + 1 :]
            column += 1
        at += 1
    return [line.rstrip() for line in lines]


class Terminal:
    """A program in a terminal of its own; use it in a ``with`` statement."""

    def __init__(self, folder, source, *args, n_columns=100, n_rows=30, **options):
        path = write(folder, source)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", n_rows, n_columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **options.pop("env", {})}
        streams = {"stdin": slave, "stdout": slave, "stderr": slave, **options}
        command = [sys.executable, "-X", "faulthandler", str(path), *map(str, args)]
        self.process = subprocess.Popen(command, start_new_session=True, env=environment, **streams)
        os.close(slave)
        self._data = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # nobody has the other end any more
                return
            if not data:
                return
            self._data += data

    @property
    def text(self):
        """All that was written, as it was."""
        return self._data.decode("utf-8", "replace")

    def lines(self):
        """What is to be read there."""
        return screen(self.text)

    def wait_for(self, text):
        """Wait until something has been written."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} was not written: {self.text!r}"
            assert self._reader.is_alive() or text in self.text, f"ended without {text!r}: {self.text!r}"
            time.sleep(0.005)

    def wait(self):
        """Wait for the end; the exit code."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(5)
            self._reader.join(5)
            raise AssertionError(f"did not end: {self.text}") from None
        self._reader.join(PATIENCE_S)
        return code

    def interrupt(self):
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for pid in [self.process.pid, *session_members(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self._reader.join(5)
        os.close(self._master)


def run_in_terminal(folder, source, *args, **options):
    """Run a program to its end; the lines that are left, and all that was written."""
    with Terminal(folder, source, *args, **options) as terminal:
        code = terminal.wait()
        assert code == 0, f"exit code {code}: {terminal.text}"
        return terminal.lines(), terminal.text
