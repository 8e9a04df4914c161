"""What holds for threads alone, or can be seen with them alone."""

from __future__ import annotations

import threading

import pytest
from scripts import PATIENCE_S, check, run

import manyhands as mh


def test_what_was_computed_before_an_error_elsewhere_comes_before_it():
    """With two threads, as with more the second call might begin before the first has ended."""
    for _ in range(20):
        is_computed, is_over = threading.Event(), threading.Event()

        def work(i, is_computed=is_computed, is_over=is_over):
            if i == 1:  # behind the first, in one chunk
                is_computed.set()
                assert is_over.wait(PATIENCE_S)
            if i == 2:
                assert is_computed.wait(PATIENCE_S)
                raise LookupError(i)
            return i

        seen = []
        with pytest.raises(LookupError):
            for result in mh.stream(work, range(4), chunksize=2, buffersize=4, scheduler="threads", num_workers=2):
                seen.append(result)
        is_over.set()
        assert seen == [0]


def test_a_task_that_is_the_first_to_import_threading_does_not_keep_the_program(tmp_path):
    source = """
    import sys
    import manyhands as mh

    def work(x):
        was_there = "threading" in sys.modules
        import threading
        return threading.current_thread() is threading.main_thread(), was_there

    assert "threading" not in sys.modules
    print(mh.map(work, [1], scheduler="threads"))
    """
    check(run(tmp_path, source), "[(False, True)]\n")
