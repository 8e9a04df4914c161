"""Ctrl-C, and the end of the program in every way there is: nobody is left behind, nobody goes on computing."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from scripts import PATIENCE_S, check, is_alive, run, start, until, write

import manyhands as mh

SCHEDULERS = ["processes", "threads", "synchronous"]

# Tasks leave a trace every 20 ms, so that a test can tell whether anybody goes on.
BUSY = """
    import os, sys, time
    import manyhands as mh

    def beat(kind, path):
        with open(path, "a") as file:
            while True:
                file.write(".")
                file.flush()
                if kind == "sleep":
                    time.sleep(0.02)
                else:
                    until = time.monotonic() + 0.02
                    while time.monotonic() < until:
                        pass

    def nap(kind, path):
        open(path, "a").write(".")
        time.sleep(3600)

    def wait(face, kind, path, scheduler):
        task = nap if kind == "nap" else beat
        mh.config.set(scheduler=scheduler, num_workers=2)
        mh.map(abs, [-1, -2])
        print("ready", flush=True)
        if face == "compute":
            mh.compute([mh.delayed(task)(kind, path) for _ in range(4)])
        elif face == "map":
            mh.map(task, [kind] * 4, [path] * 4)
        elif face == "stream":
            list(mh.stream(task, [kind] * 4, [path] * 4))
        elif face == "submit":
            futures = [mh.submit(task, kind, path) for _ in range(4)]
            [future.result() for future in futures]
"""


def has_begun(path):
    return path.exists() and path.stat().st_size > 0


def is_quiet(path):
    """Whether nothing is added to a file any more."""
    before = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size == before


CASES = [
    *[(face, "sleep", "processes") for face in ("compute", "map", "stream", "submit")],
    *[(face, "sleep", "threads") for face in ("compute", "map", "stream", "submit")],
    ("compute", "sleep", "synchronous"),
    ("compute", "loop", "processes"),
    ("submit", "loop", "threads"),
    ("map", "nap", "processes"),
    ("stream", "nap", "threads"),
    ("compute", "sleep", "fork"),
    ("map", "nap", "fork"),
    ("stream", "loop", "fork"),
    ("submit", "sleep", "fork"),
]


@pytest.mark.parametrize("face, kind, scheduler", CASES)
def test_ctrl_c_ends_a_script_and_all_it_started(face, kind, scheduler, tmp_path):
    trace = tmp_path / "trace"
    source = BUSY + "\n    wait(*sys.argv[1:])\n"
    with start(tmp_path, source, face, kind, trace, scheduler) as program:
        program.wait_for("ready")
        until(lambda: has_begun(trace), "tasks have begun")
        program.signal_all(signal.SIGINT)
        outcome = program.wait()
        assert outcome.returncode in (-signal.SIGINT, 1), outcome
        assert "\nKeyboardInterrupt" in outcome.stderr, outcome
        assert outcome.stderr.count("Traceback (most recent call last)") == 1, outcome
        assert "Fatal" not in outcome.stderr, outcome
        until(lambda: not program.workers(), "no process is left")
        assert is_quiet(trace)


@pytest.mark.parametrize(
    "face, kind, scheduler",
    [
        (face, kind, scheduler)
        for face, kind in [("compute", "loop"), ("map", "nap"), ("stream", "loop"), ("submit", "nap")]
        for scheduler in ("processes", "threads", "fork")
        # Forking for four calls takes so long that Ctrl-C may come before all are submitted, when nobody waits yet:
        # then those before it go on, as they should.
        if (face, scheduler) != ("submit", "fork")
    ],
)
def test_after_ctrl_c_the_next_call_works(face, kind, scheduler, tmp_path):
    """A thread in the middle of a long sleep cannot be ended; another one takes its place."""
    trace = tmp_path / "trace"
    source = (
        BUSY
        + """
    import signal
    face, kind, path, scheduler = sys.argv[1:]
    for _ in range(2):
        try:
            wait(face, kind, path, scheduler)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        assert mh.map(abs, range(-40, 0)) == list(range(40, 0, -1))
        assert mh.compute([mh.delayed(pow)(item, 2) for item in range(5)]) == ([0, 1, 4, 9, 16],)
        assert mh.submit(max, 3, 4).result() == 4
        assert list(mh.stream(abs, range(9))) == list(range(9))
        # A thread takes the interrupt when it runs Python code next, which may take a while on a slow machine.
        sizes = [os.stat(path).st_size]
        while len(sizes) < 2 or sizes[-2] != sizes[-1]:
            assert len(sizes) < 100, "somebody goes on computing"
            time.sleep(0.3)
            sizes.append(os.stat(path).st_size)
        os.remove(path)
        print("next", flush=True)
    os._exit(0)
    """
    )
    with start(tmp_path, source, face, kind, trace, scheduler) as program:
        for n_times in (1, 2):
            program.wait_for("ready\n" if n_times == 1 else "next\nready\n")
            until(lambda: has_begun(trace), "tasks have begun")
            program.signal_all(signal.SIGINT)
            until(lambda n=n_times: program.stdout.count("interrupted") == n, "the call was interrupted")
            until(lambda n=n_times: program.stdout.count("next") == n or program.process.poll(), "the next calls work")
        check(program.wait())


def test_an_interrupt_meant_for_one_task_does_not_hit_the_next(tmp_path):
    """A task without Python code cannot take the interrupt; nor must whatever runs next in its thread."""
    source = """
        import os, signal, threading, time
        import manyhands as mh

        mh.config.set(scheduler="threads", num_workers=2)
        for _ in range(5):
            try:
                threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
                mh.map(time.sleep, [0.4] * 2)
                time.sleep(60)  # of the timer's thread, on a slow machine
            except KeyboardInterrupt:
                pass
            assert mh.map(lambda item: item + 1, range(20)) == list(range(1, 21))
            time.sleep(0.4)
            assert mh.map(lambda item: item + 1, range(20)) == list(range(1, 21))
        print("right")
    """
    check(run(tmp_path, source), "right\n")


def test_other_exceptions_of_signal_handlers_end_a_call_as_well(tmp_path):
    source = """
        import os, signal, time
        import manyhands as mh

        class OutOfTime(Exception):
            pass

        def alarm(*_):
            raise OutOfTime

        signal.signal(signal.SIGALRM, alarm)
        for scheduler in ("processes", "threads", "fork"):
            mh.config.set(scheduler=scheduler, num_workers=2)
            mh.map(abs, [-1])
            for call in (
                lambda: mh.map(time.sleep, [60] * 4),
                lambda: mh.compute([mh.delayed(time.sleep)(60) for _ in range(4)]),
                lambda: list(mh.stream(time.sleep, [60] * 4)),
            ):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                    call()
                except OutOfTime:
                    pass
                else:
                    raise AssertionError("not interrupted")
                assert mh.map(abs, [-1, -2]) == [1, 2]
        print("right", flush=True)
        os._exit(0)
    """
    check(run(tmp_path, source), "right\n")


def test_a_huge_graph_can_be_interrupted_before_it_is_sent(tmp_path):
    """A signal that arrives while calls are turned into bytes, where no Python code runs."""
    source = """
        import signal
        import manyhands as mh
        from manyhands import _pools

        class Interrupted(Exception):
            pass

        def interrupt(*_):
            raise Interrupted

        delay_s = 0.0

        class First:
            def __reduce__(self):
                # By the wall: on a busy machine the signal comes early rather than too late. Zero is never.
                signal.setitimer(signal.ITIMER_REAL, delay_s)
                return str, ()

        signal.signal(signal.SIGALRM, interrupt)
        mh.config.set(scheduler="processes", num_workers=2)
        mh.map(repr, [First()])
        mh.shutdown()
        tasks = [mh.delayed(repr)(item) for item in [First(), *range(400_000)]]
        delay_s = 0.002
        try:
            mh.compute(tasks)
        except Interrupted:
            # They are started when there is work for them.
            assert _pools._processes.worker_pids() == [], "tasks have been sent"
            assert mh.map(abs, [-1, -2]) == [1, 2]
            print("right")
    """
    check(run(tmp_path, source), "right\n")


def test_a_program_that_takes_ctrl_c_for_something_else_goes_on(tmp_path):
    """Also where the workers are only just being started."""
    source = """
        import signal, sys, time
        import manyhands as mh

        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(1))

        def nap(item):
            time.sleep(0.05)
            return item

        print("ready", flush=True)
        assert mh.map(nap, range(40), num_workers=2) == list(range(40))
        assert seen
        print("right")
    """
    with start(tmp_path, source) as program:
        program.wait_for("ready")
        for _ in range(20):
            program.signal_all(signal.SIGINT)
            time.sleep(0.02)
        check(program.wait(), "ready\nright\n")


def test_ctrl_c_as_the_workers_start_leaves_one_traceback(tmp_path):
    source = """
        import time
        import manyhands as mh
        print("ready", flush=True)
        mh.map(time.sleep, [60] * 4, num_workers=2)
    """
    for delay_s in (0.0, 0.01, 0.03, 0.06, 0.1):
        with start(tmp_path, source) as program:
            program.wait_for("ready")
            time.sleep(delay_s)
            program.signal_all(signal.SIGINT)
            outcome = program.wait()
            assert outcome.stderr.count("KeyboardInterrupt") == 1, outcome
            until(lambda program=program: not program.workers(), "no process is left")


def test_ctrl_c_twice_in_a_row_is_no_worse(tmp_path):
    source = BUSY + "\n    wait(*sys.argv[1:])\n"
    trace = tmp_path / "trace"
    with start(tmp_path, source, "map", "sleep", trace, "processes") as program:
        program.wait_for("ready")
        until(lambda: has_begun(trace), "tasks have begun")
        for _ in range(3):
            program.signal_all(signal.SIGINT)
            time.sleep(0.01)
        program.wait()
        until(lambda: not program.workers(), "no process is left")
        assert is_quiet(trace)


def test_ctrl_c_ends_a_program_whose_output_nobody_reads(tmp_path):
    source = """
        import os, sys, time
        import manyhands as mh

        def talk(item):
            while True:
                print("word " * 1000)

        mh.map(talk, range(2), num_workers=2)
    """
    path = write(tmp_path, source)
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        # More than a pipe holds has been written, and it is full.
        assert process.stdout.read(1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_S) != 0
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


# At a prompt


class Terminal:
    """A program at a terminal of its own, and what it shows."""

    def __init__(self, command, **options):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, {**os.environ, "PYTHON_BASIC_REPL": "1", "TERM": "dumb", **options})
        self.shown = ""

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait_for(self, text, patience_s=PATIENCE_S):
        deadline = time.monotonic() + patience_s
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.shown += os.read(self.fd, 65536).decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before


@pytest.mark.parametrize("scheduler", ["processes", "threads", "fork"])
def test_at_a_prompt_ctrl_c_brings_the_prompt_back(scheduler, tmp_path):
    with Terminal([sys.executable, "-q"], MANYHANDS_SCHEDULER=scheduler, MANYHANDS_NUM_WORKERS="2") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("import time, os; import manyhands as mh\n")
        terminal.wait_for(">>> ")
        terminal.type("def nap(i): open(os.environ['TRACE'], 'a').write('.'); time.sleep(0.02 if i else 600)\n")
        terminal.wait_for("... ")
        terminal.type("\n")
        terminal.wait_for(">>> ")
        terminal.type(f"os.environ['TRACE'] = {str(tmp_path / 'trace')!r}\n")
        terminal.wait_for(">>> ")
        for _ in range(2):
            terminal.type("_ = mh.map(nap, [0, 0, 0, 0])\n")
            until(lambda: has_begun(tmp_path / "trace"), "tasks have begun")
            terminal.type("\x03")
            terminal.wait_for("KeyboardInterrupt")
            terminal.wait_for(">>> ")
            os.remove(tmp_path / "trace")
            terminal.type("mh.map(abs, [-1, -2, -3])\n")
            terminal.wait_for("[1, 2, 3]")
            terminal.wait_for(">>> ")
        # What a user defines at the prompt is found, with its globals.
        terminal.type("offset = 40; mh.map(lambda i: i + offset, [1, 2])\n")
        terminal.wait_for("[41, 42]")


# The end of the parent

ENDS = """
    import os, sys, time
    import manyhands as mh

    scheduler, work, end = sys.argv[1:]
    mh.config.set(scheduler=scheduler, num_workers=2)
    mh.map(abs, [-1, -2])

    def loop(_):
        while True:
            pass

    if work == "sleep":
        futures = [mh.submit(time.sleep, 3600) for _ in range(3)]
    elif work == "loop":
        futures = [mh.submit(loop, i) for i in range(3)]
    elif work == "stream":
        stream = mh.stream(time.sleep, [0.001] * 10_000)
        next(stream)
    elif work == "dropped":
        [mh.submit(time.sleep, 3600) for _ in range(3)]
    time.sleep(0.2)
    print("ready", flush=True)
    if end == "wait":
        time.sleep(3600)
    elif end == "exit":
        sys.exit(5)
    elif end == "raise":
        raise RuntimeError("the end")
    elif end == "os._exit":
        os._exit(6)
"""

END_CODES = {"return": 0, "exit": 5, "raise": 1, "os._exit": 6}


@pytest.mark.parametrize(
    "scheduler, work, end",
    [
        *[(scheduler, "loop", end) for scheduler in ("processes", "threads") for end in END_CODES],
        *[(scheduler, work, "exit") for scheduler in ("processes", "threads") for work in ("sleep", "stream")],
        *[(scheduler, "nothing", "return") for scheduler in ("processes", "threads", "fork")],
        *[("fork", "loop", end) for end in END_CODES],
        *[("fork", work, "exit") for work in ("sleep", "stream")],
    ],
)
def test_a_program_that_ends_takes_its_workers_along(scheduler, work, end, tmp_path):
    with start(tmp_path, ENDS, scheduler, work, end) as program:
        outcome = program.wait()
        assert outcome.returncode == END_CODES[end], outcome
        if end == "raise":
            assert outcome.stderr.count("Traceback (most recent call last)") == 1, outcome
            assert outcome.stderr.rstrip().endswith("RuntimeError: the end"), outcome
        else:
            assert outcome.stderr == "", outcome
        until(lambda: not program.workers(), "no process is left")


@pytest.mark.parametrize(
    "scheduler, work, how",
    [
        ("processes", "nothing", signal.SIGKILL),
        ("processes", "sleep", signal.SIGKILL),
        ("processes", "loop", signal.SIGKILL),
        ("processes", "loop", signal.SIGTERM),
        ("processes", "sleep", signal.SIGHUP),
        ("fork", "sleep", signal.SIGKILL),
        ("fork", "loop", signal.SIGTERM),
    ],
)
def test_workers_do_not_outlive_a_parent_that_is_killed(scheduler, work, how, tmp_path):
    with start(tmp_path, ENDS, scheduler, work, "wait") as program:
        program.wait_for("ready")
        assert program.workers()
        os.kill(program.pid, how)
        until(lambda: not program.workers(), "no worker is left")


def test_stopped_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    with start(tmp_path, ENDS, "processes", "sleep", "wait") as program:
        program.wait_for("ready")
        for pid in program.workers():
            os.kill(pid, signal.SIGSTOP)
        os.kill(program.pid, signal.SIGKILL)
        until(lambda: not program.workers(), "no worker is left")


def test_workers_that_are_only_starting_do_not_outlive_a_parent_that_is_killed(tmp_path):
    source = """
        import manyhands as mh
        print("ready", flush=True)
        mh.map(abs, range(10), num_workers=4)
    """
    for delay_s in (0.0, 0.005, 0.02, 0.04, 0.08):
        with start(tmp_path, source) as program:
            program.wait_for("ready")
            time.sleep(delay_s)
            os.kill(program.pid, signal.SIGKILL)
            until(lambda program=program: not program.workers(), "no worker is left")


LEAVES = """
    import os, signal, subprocess, sys, time
    import manyhands as mh

    def leave(how, path):
        program = subprocess.Popen(["sleep", "3600"])
        with open(path + "-", "w") as file:
            file.write(str(program.pid))
        os.rename(path + "-", path)
        if how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if how != "return":
            program.wait()

    def fail(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        raise ValueError

    mh.config.set(scheduler="processes", num_workers=2)
    mh.map(abs, [-1, -2])
    how, path = sys.argv[1:]
    if how == "crash":
        try:
            mh.map(leave, [how], [path])
        except mh.WorkerDied:
            pass
    elif how == "fail":
        try:
            mh.compute([mh.delayed(leave)(how, path), mh.delayed(fail)(path)])
        except ValueError:
            pass
    elif how == "shutdown":
        mh.submit(leave, how, path)
        while not os.path.exists(path):
            time.sleep(0.01)
        mh.shutdown()
    else:
        print("ready", flush=True)
        mh.map(leave, [how], [path])
    if how != "return":
        print("ready", flush=True)
        time.sleep(3600)
"""


def pid_in(path):
    """The process that a task has started."""
    until(path.exists, "the task has begun")
    return int(path.read_text())


@pytest.mark.parametrize("how", ["Ctrl-C", "killed", "stopped and killed", "crash", "fail", "shutdown"])
def test_what_a_task_has_started_ends_with_its_worker(how, tmp_path):
    path = tmp_path / "pid"
    with start(tmp_path, LEAVES, how, path) as program:
        program.wait_for("ready")
        pid = pid_in(path)
        if how == "Ctrl-C":
            os.kill(program.pid, signal.SIGINT)
            assert program.wait().returncode in (-signal.SIGINT, 1)
        elif how.endswith("killed"):
            assert is_alive(pid)
            if how == "stopped and killed":
                for worker in program.workers():
                    os.kill(worker, signal.SIGSTOP)
            os.kill(program.pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), "the program is gone")


def test_what_a_task_has_left_behind_goes_on_when_its_worker_ends_well(tmp_path):
    """Once is enough: a worker that takes long to end, as on a busy machine, is ended by force, with its group."""
    path = tmp_path / "pid"

    def goes_on():
        path.unlink(missing_ok=True)
        with start(tmp_path, LEAVES, "return", path) as program:
            check(program.wait(), "ready\n")
            left = program.workers()
            assert left in ([pid_in(path)], [])
            return left

    until(goes_on, "the worker has ended well")


def test_a_program_that_a_task_has_started_cannot_be_stopped_by_the_terminal(tmp_path):
    """It is in the background: what asks there for a password gets an error."""
    source = """
        import subprocess
        import manyhands as mh

        def ask(_):
            return subprocess.run(["sh", "-c", "read answer < /dev/tty"], capture_output=True).returncode

        assert mh.map(ask, [0], scheduler="processes", num_workers=1) != [0]
        print("right")
    """
    path = write(tmp_path, source)
    with Terminal([sys.executable, str(path)]) as terminal:
        terminal.wait_for("right")


def test_a_forked_child_that_lives_on_does_not_keep_the_workers(tmp_path):
    """The child holds copies of the connections, so their end alone would not tell."""
    source = """
        import os, time
        import manyhands as mh
        from manyhands import _pools
        mh.map(abs, [-1, -2], scheduler="processes", num_workers=2)
        pids = _pools._processes.worker_pids()
        if os.fork() == 0:
            time.sleep(3600)
        print(*pids, "ready", flush=True)
        time.sleep(3600)
    """
    with start(tmp_path, source) as program:
        program.wait_for("ready")
        pids = [int(word) for word in program.stdout.split()[:-1]]
        assert pids
        os.kill(program.pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, pids)), "no worker is left")


def test_a_program_that_becomes_another_takes_its_workers_along(tmp_path):
    source = """
        import os, sys
        import manyhands as mh
        mh.map(abs, [-1, -2], scheduler="processes", num_workers=2)
        os.execv("/bin/sh", ["sh", "-c", "echo ready; sleep 3600; true"])
    """
    with start(tmp_path, source) as program:
        program.wait_for("ready")
        until(lambda: len(program.workers()) == 1, "only the sleep is left")


def test_a_call_in_a_daemon_thread_does_not_spoil_the_exit(tmp_path):
    source = """
        import threading, time, sys
        import manyhands as mh

        mh.config.set(scheduler=sys.argv[1], num_workers=2)
        mh.map(abs, [-1])
        threading.Thread(target=lambda: mh.map(time.sleep, [3600] * 2), daemon=True).start()
        time.sleep(0.3)
        print("right")
    """
    for scheduler in ("processes", "threads", "fork"):
        outcome = run(tmp_path, source, scheduler)
        assert outcome.returncode == 0, outcome
        assert outcome.stdout == "right\n", outcome
        assert "Fatal" not in outcome.stderr, outcome


def test_a_call_at_exit_works(tmp_path):
    """A program may compute in an exit handler that was registered after the first call."""
    source = """
        import atexit
        import manyhands as mh
        mh.config.set(scheduler="processes", num_workers=2)
        mh.map(abs, [-1])
        atexit.register(lambda: print(mh.map(abs, [-1, -2])))
    """
    check(run(tmp_path, source), "[1, 2]\n")


def test_the_program_may_ignore_its_children(tmp_path):
    """With SIGCHLD ignored the system buries children itself, and nobody learns how they ended."""
    source = """
        import os, signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        import manyhands as mh
        mh.config.set(scheduler="processes", num_workers=2)
        assert mh.map(abs, range(-9, 0)) == list(range(9, 0, -1))
        try:
            mh.map(os._exit, [3])
        except mh.WorkerDied as error:
            assert "os._exit" in str(error) or "_exit(3)" in str(error), error
        assert mh.map(abs, [-1]) == [1]
        print("right")
    """
    check(run(tmp_path, source), "right\n")


def test_the_prompt_of_this_process_is_spared():
    """A KeyboardInterrupt that a task itself raises is that task's error, and ends nothing else."""

    def interrupt():
        raise KeyboardInterrupt("in the task")

    for scheduler in ("processes", "threads"):
        with mh.config.set(scheduler=scheduler, num_workers=2):
            with pytest.raises(KeyboardInterrupt, match="in the task"):
                mh.compute(mh.delayed(interrupt)())
            assert mh.map(abs, [-1, -2]) == [1, 2]
