"""What journals have to do with processes, with themselves, and with programs that keep none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import manyhands as mh
from manyhands import _journal


def test_a_program_without_a_journal_does_not_load_it():
    program = (
        "import sys, manyhands as mh\n"
        "mh.map(abs, [1], scheduler='threads')\n"
        "mh.map(abs, [1], scheduler='synchronous')\n"
        "mh.submit(abs, 1).result()\n"
        "print('manyhands._journal' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_writes_into_no_journal_of_its_parents():
    with mh.journal() as journal:
        mh.map(abs, [1], scheduler="threads")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                mh.map(abs, [1, 2], scheduler="synchronous")
                with pytest.raises(RuntimeError, match="forked"):
                    print(journal.tasks)
                with mh.journal() as own:
                    mh.map(abs, [1, 2, 3], scheduler="synchronous")
                status = 0 if [call.tasks for call in own.calls] == [3] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        mh.map(abs, [1], scheduler="synchronous")
    assert [call.tasks for call in journal.calls] == [1, 1]


def test_a_journal_is_not_kept_twice():
    with mh.journal() as journal:
        with pytest.raises(RuntimeError, match="being kept already"), journal:
            pass
        mh.map(abs, [1], scheduler="synchronous")
    assert [call.tasks for call in journal.calls] == [1]


def keep_one(x):
    with mh.journal() as journal:
        mh.map(abs, [x])
    return len(journal.calls)


def test_a_task_keeps_no_journal():
    with mh.journal() as journal:
        assert mh.map(keep_one, [1, 2], scheduler="threads", num_workers=2) == [0, 0]
    assert [call.function for call in journal.calls] == ["keep_one"]


def test_a_function_that_cannot_be_sent_leaves_a_call_without_tasks():
    with mh.journal() as journal:
        with pytest.raises(mh.PicklingError):
            mh.map(lambda x, stuck=sys.stdout: x, [1], scheduler="processes", num_workers=1)
        mh.map(abs, [1], scheduler="threads", num_workers=1)
        with mh.config.set(scheduler="processes", num_workers=1), pytest.raises(mh.PicklingError):
            mh.submit(lambda x, stuck=sys.stdout: x, 1)
    assert [call.tasks for call in journal.calls] == [0, 1, 0]
    assert all(call.ended is not None for call in journal.calls)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (2e-6, "2 µs"), (0.00123, "1.23 ms"), (0.9999, "1 s"), (1.2345, "1.23 s"), (123.4, "123 s")],
)
def test_times_are_printed_in_three_figures(seconds, text):
    assert _journal._seconds(seconds) == text
