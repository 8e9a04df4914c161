"""What tasks write to standard output and error appears on the parent's, and before the result does."""

import os
import subprocess
import sys

import pytest
from scripts import PATIENCE_S, check, run, start, until, write

FACES = """
    import ctypes, os, subprocess, sys, time
    import manyhands as mh

    mh.config.set(scheduler="processes", num_workers=2)

    def call(face, function, items):
        if face == "map":
            return mh.map(function, items)
        if face == "compute":
            return mh.compute([mh.delayed(function)(item) for item in items])[0]
        if face == "stream":
            return list(mh.stream(function, items))
        return [future.result() for future in [mh.submit(function, item) for item in items]]
"""


@pytest.mark.parametrize("face", ["map", "compute", "stream", "submit"])
def test_what_tasks_write_appears_before_the_call_returns(face, tmp_path):
    """Whole lines and parts of lines, from Python, from the system's own calls and from programs."""
    source = (
        FACES
        + """
    def talk(item):
        print("line", item)
        os.write(1, b"raw %d\\n" % item)
        subprocess.run(["echo", "program", str(item)])
        print("part", item, end=";")
        print("error", item, file=sys.stderr)

    for turn in range(20):
        call(sys.argv[1], talk, range(5 * turn, 5 * turn + 5))
        os.write(1, b"=== %d\\n" % turn)
        os.write(2, b"=== %d\\n" % turn)
    """
    )
    outcome = run(tmp_path, source, face)
    assert outcome.returncode == 0, outcome
    for turn in range(20):
        out, _, outcome.stdout = outcome.stdout.partition(f"=== {turn}\n")
        error, _, outcome.stderr = outcome.stderr.partition(f"=== {turn}\n")
        for item in range(5 * turn, 5 * turn + 5):
            for text in (f"line {item}\n", f"raw {item}\n", f"program {item}\n", f"part {item};"):
                assert out.count(text) == 1, (turn, text, out)
            assert error.count(f"error {item}\n") == 1, (turn, error)


def test_results_come_only_after_what_was_printed_before_them(tmp_path):
    """Many small results with many small lines: none of the lines may be overtaken."""
    source = (
        FACES
        + """
    def talk(item):
        print("task", item)
        return item

    for item in mh.stream(talk, range(2000)):
        os.write(1, b"result %d\\n" % item)
    """
    )
    outcome = run(tmp_path, source)
    check(outcome)
    seen = set()
    for line in outcome.stdout.splitlines():
        kind, item = line.split()
        if kind == "task":
            seen.add(item)
        else:
            assert item in seen, f"the result of {item} came before what it printed"
    assert len(seen) == 2000


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
@pytest.mark.parametrize(
    "write",
    [
        'print("told", end=";")',
        'sys.stdout.write("told;")',
        'sys.stdout.writelines(["told", ";"])',
        'sys.stdout.buffer.write(b"told;")',
        'print("told", end=";", file=sys.__stderr__)',
        'sys.stderr.buffer.write(b"told;")',
        'ctypes.CDLL(None).printf(b"told;")',
    ],
)
def test_parts_of_lines_come_before_a_result_that_leaves_while_the_next_task_runs(scheduler, write, tmp_path):
    """What Python or the C library still keeps at the end of a task nobody can fetch once the next one computes."""
    source = (
        FACES
        + f"""
    def talk(item, mark):
        # The first has everything at hand, the second is quick, the third is not.
        if item % 3 == 1:
            {write}
        while item % 3 == 2 and not os.path.exists(mark):
            time.sleep(0.001)
        return item

    def run(first):
        mark = sys.argv[1] + str(first)
        items = range(first, first + 3)
        for item in mh.stream(talk, items, [mark] * 3, scheduler="{scheduler}", num_workers=1, chunksize=3):
            os.write({2 if "stderr" in write else 1}, b"result %d\\n" % item)
            if item % 3 == 1:
                open(mark, "w").close()

    run(0)
    run(3)
    """
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    outcome = run(tmp_path, source, tmp_path / "mark", env=buffered)
    assert outcome.returncode == 0, outcome
    said, silent = outcome.stdout, outcome.stderr
    if "stderr" in write:
        said, silent = silent, said
    # Its own result may wait for that of the second.
    assert said.replace("result 0\n", "").replace("result 3\n", "") == (
        "told;result 1\nresult 2\ntold;result 4\nresult 5\n"
    )
    assert silent == ""


def test_lines_are_whole_while_the_parent_writes_as_well(tmp_path):
    """Far more at once than a pipe takes without interruption."""
    source = (
        FACES
        + """
    import threading
    is_over = threading.Event()

    def write():
        while not is_over.is_set():
            os.write(1, b"parent\\n")

    def talk(item):
        for line in range(1000):
            print("task", item, line)

    writer = threading.Thread(target=write)
    writer.start()
    mh.map(talk, range(100))
    is_over.set()
    writer.join()
    """
    )
    outcome = run(tmp_path, source)
    check(outcome)
    lines = [line for line in outcome.stdout.splitlines() if line != "parent"]
    for item in range(100):
        own = [line for line in lines if line.startswith(f"task {item} ")]
        assert own == [f"task {item} {line}" for line in range(1000)]
    assert len(lines) == 100_000


def test_what_the_parent_printed_before_comes_first(tmp_path):
    source = (
        FACES
        + """
    print("before", end=" ")
    mh.map(lambda _: print("task", end=" "), [0])
    print("after")
    """
    )
    check(run(tmp_path, source), "before task after\n")


def test_the_output_of_compiled_code_is_not_kept_back(tmp_path):
    """The C library buffers what is printed to a pipe; a worker's is written out with its results."""
    source = (
        FACES
        + """
    library = ctypes.CDLL(None)

    def talk(item):
        ctypes.CDLL(None).printf(b"from C %d\\n", ctypes.c_int(item))

    mh.map(talk, range(4))
    os.write(1, b"===\\n")
    """
    )
    outcome = run(tmp_path, source)
    check(outcome)
    before, _, after = outcome.stdout.partition("===\n")
    assert sorted(before.splitlines()) == [f"from C {item}" for item in range(4)]
    assert after == ""


def test_nothing_is_lost_when_a_task_fails_or_its_worker_dies(tmp_path):
    source = (
        FACES
        + """
    def fail(item):
        print("failing", end="")
        raise ValueError

    def die(item):
        print("dying", flush=True)
        os.write(2, b"last words")
        os._exit(1)

    try:
        mh.map(fail, [1])
    except ValueError:
        os.write(1, b"\\n===\\n")
    try:
        mh.map(die, [1])
    except mh.WorkerDied as error:
        assert error.output == "dying\\nlast words", error.output
    """
    )
    outcome = run(tmp_path, source)
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == "failing\n===\ndying\ndying\n", outcome
    assert outcome.stderr == "last words" * 2, outcome


def test_what_is_written_after_the_last_result_is_not_lost(tmp_path):
    """By the exit handlers of a worker.

    Once is enough: a worker that takes long to end, as on a busy machine, is ended by force.
    """
    source = (
        FACES
        + """
    def leave(item):
        import atexit
        atexit.register(lambda: print("at exit", end=""))

    mh.map(leave, [1], num_workers=1)
    """
    )

    def is_written():
        outcome = run(tmp_path, source)
        check(outcome)
        assert outcome.stdout in ("at exit", "")
        return outcome.stdout

    until(is_written, "the worker has run its exit handler")


def test_much_output_arrives_whole_and_in_order(tmp_path):
    source = (
        FACES
        + """
    def talk(item):
        for line in range(3000):
            print(item, line, "x" * 100)

    mh.map(talk, range(4))
    """
    )
    outcome = run(tmp_path, source)
    check(outcome)
    lines = outcome.stdout.splitlines()
    assert len(lines) == 12_000
    for item in range(4):
        own = [int(line.split()[1]) for line in lines if line.startswith(f"{item} ")]
        assert own == list(range(3000))


def test_lines_of_several_workers_do_not_mix(tmp_path):
    source = (
        FACES
        + """
    def talk(item):
        for _ in range(500):
            print(chr(97 + item) * 70)

    mh.map(talk, range(8))
    """
    )
    outcome = run(tmp_path, source)
    check(outcome)
    assert sorted(outcome.stdout.splitlines()) == sorted(chr(97 + item) * 70 for item in range(8) for _ in range(500))


def test_the_beginning_of_a_line_appears_while_a_task_goes_on(tmp_path):
    source = (
        FACES
        + """
    def talk(item):
        print("half a line", end="", flush=True)
        while not os.path.exists(item):
            time.sleep(0.01)

    mh.map(talk, sys.argv[1:])
    """
    )
    go = tmp_path / "go"
    with start(tmp_path, source, go) as program:
        program.wait_for("half a line")
        go.touch()
        check(program.wait(), "half a line")


def test_text_of_any_language_survives(tmp_path):
    source = (
        FACES
        + """
    mh.map(lambda item: print("Größe μ 数", item), range(3))
    """
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    outcome = run(tmp_path, source, env=environment)
    check(outcome)
    assert sorted(outcome.stdout.splitlines()) == [f"Größe μ 数 {item}" for item in range(3)]


def test_a_reader_that_leaves_does_not_stop_the_work(tmp_path):
    source = (
        FACES
        + """
    def talk(item):
        print("line", item, "x" * 1000)
        return item

    assert mh.map(talk, range(2000)) == list(range(2000))
    open(sys.argv[1], "w").write("right")
    """
    )
    path = write(tmp_path, source)
    done = tmp_path / "done"
    with subprocess.Popen([sys.executable, str(path), str(done)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        process.wait(PATIENCE_S)
    assert done.read_text() == "right"


def test_output_arrives_while_a_task_goes_on(tmp_path):
    source = (
        FACES
        + """
    def talk(item):
        print("begun")
        while not os.path.exists(item):
            time.sleep(0.01)
        print("ended")

    mh.map(talk, sys.argv[1:])
    """
    )
    go = tmp_path / "go"
    with start(tmp_path, source, go) as program:
        program.wait_for("begun\n")
        assert "ended" not in program.stdout
        go.touch()
        check(program.wait(), "begun\nended\n")


def test_logging_and_warnings_go_to_standard_error(tmp_path):
    source = (
        FACES
        + """
    def warn(item):
        import logging, warnings
        logging.warning("logged %s", item)
        warnings.warn(f"warned {item}")

    mh.map(warn, range(2))
    """
    )
    outcome = run(tmp_path, source)
    assert outcome.returncode == 0, outcome
    for item in range(2):
        assert f"logged {item}" in outcome.stderr
        assert f"UserWarning: warned {item}" in outcome.stderr


def test_with_threads_output_is_the_program_s_own(tmp_path):
    source = (
        FACES
        + """
    mh.config.set(scheduler="threads")
    mh.map(lambda item: os.write(1, b"task %d\\n" % item), range(3))
    print("after")
    """
    )
    outcome = run(tmp_path, source)
    check(outcome)
    assert sorted(outcome.stdout.splitlines()[:3]) == ["task 0", "task 1", "task 2"]
    assert outcome.stdout.endswith("after\n")
