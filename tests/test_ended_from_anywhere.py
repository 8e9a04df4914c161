"""`Executor.shutdown` and the `close` of a stream may be called from anywhere, and wait for nobody's code.

From signal handlers, from the iterables that calls take their arguments from, from tasks, from other threads and from
exit handlers.
"""

from __future__ import annotations

import signal

import pytest
import scripts

POOLS = ["threads", "processes"]

# Programs begin with this.
BEGIN = """
    import atexit, os, queue, signal, sys, threading, time
    import manyhands as mh

    scheduler = sys.argv[1]
    began = threading.Event()

    def nap(x):
        time.sleep(0.2)
        return x

    def from_queue(items, n_quick):
        "Items at once, and then one that only comes when the program goes on."
        yield from range(n_quick)
        began.set()
        assert items.get() is None
"""


def run(folder, source, scheduler):
    return scripts.run(folder, BEGIN + source, scheduler)


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("scheduler", POOLS)
def test_a_signal_handler_shuts_an_executor_down_whose_results_are_waited_for(scheduler, wait, tmp_path):
    source = f"""
    def told(*_):
        executor.shutdown(wait={wait}, cancel_futures=True)
        print("shut down", flush=True)

    signal.signal(signal.SIGTERM, told)
    executor = mh.Executor(1, scheduler=scheduler)
    results = executor.map(lambda x: time.sleep(x), [0, 2, 0, 0], buffersize=2)
    print(next(results), flush=True)
    try:
        list(results)
    except BaseException as error:
        print(type(error).__name__)
    """
    with scripts.start(tmp_path, BEGIN + source, scheduler) as program:
        program.wait_for("None\n")
        program.process.send_signal(signal.SIGTERM)
        outcome = program.wait()
    scripts.check(outcome)
    assert outcome.stdout.splitlines()[:2] == ["None", "shut down"]


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("buffersize", [None, 2])
@pytest.mark.parametrize("scheduler", POOLS)
def test_arguments_shut_the_executor_down_that_takes_them(scheduler, buffersize, wait, tmp_path):
    source = f"""
    def items():
        for i in range(9):
            if i == 4:
                executor.shutdown(wait={wait})
            yield i

    executor = mh.Executor(2, scheduler=scheduler)
    found = []
    try:
        for result in executor.map(nap, items(), buffersize={buffersize}):
            found.append(result)
    except RuntimeError as error:
        print(found, error)
    """
    # Without a limit all are taken before there is an iterator.
    found = [] if buffersize is None else [0, 1, 2, 3]
    scripts.check(run(tmp_path, source, scheduler), f"{found} cannot schedule new futures after shutdown\n")


def test_a_task_shuts_the_executor_down_whose_results_are_waited_for(tmp_path):
    source = """
    def task(x):
        if x == 2:
            time.sleep(0.2)  # somebody waits for it
            executor.shutdown(wait=False)
        return x

    executor = mh.Executor(2, scheduler=scheduler)
    results = executor.map(task, range(9), buffersize=3)
    found = []
    try:
        for result in results:
            found.append(result)
    except RuntimeError as error:
        print(found[:3], error)
    """
    scripts.check(run(tmp_path, source, "threads"), "[0, 1, 2] cannot schedule new futures after shutdown\n")


@pytest.mark.parametrize("scheduler", POOLS)
def test_an_executor_is_shut_down_whose_arguments_are_waited_for(scheduler, tmp_path):
    source = """
    def consume():
        try:
            for result in executor.map(nap, from_queue(items, 3), buffersize=2):
                print(result)
        except RuntimeError as error:
            print(error)

    items = queue.Queue()
    executor = mh.Executor(2, scheduler=scheduler)
    consumer = threading.Thread(target=consume)
    consumer.start()
    began.wait()
    executor.shutdown(wait=False)
    items.put(None)
    consumer.join()
    """
    scripts.check(run(tmp_path, source, scheduler), "0\n1\n2\n")


@pytest.mark.parametrize("scheduler", POOLS)
def test_an_executor_is_shut_down_at_once_though_a_result_is_waited_for(scheduler, tmp_path):
    source = """
    path = sys.argv[0] + ".go"

    def task(x):
        if x == 1:
            open(path + "-", "w").close()
            os.rename(path + "-", path + ".began")
            while not os.path.exists(path):
                time.sleep(0.01)
        return x

    def consume():
        try:
            for result in results:
                found.append(result)
        except RuntimeError as error:
            print(found, error)

    found = []
    executor = mh.Executor(1, scheduler=scheduler)
    results = executor.map(task, range(9), buffersize=1)
    consumer = threading.Thread(target=consume)
    consumer.start()
    while not os.path.exists(path + ".began"):
        time.sleep(0.01)
    time.sleep(0.2)  # it waits by now
    executor.shutdown(wait=False)
    open(path, "w").close()
    consumer.join()
    """
    scripts.check(run(tmp_path, source, scheduler), "[0, 1] cannot schedule new futures after shutdown\n")


# Streams

STREAMS = ["threads", "processes", "synchronous"]


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("scheduler", STREAMS)
def test_a_stream_is_closed_whose_arguments_are_waited_for(scheduler, is_stored, tmp_path):
    source = f"""
    def consume():
        print(list(stream))
        print(list(stream))

    items = queue.Queue()
    options = dict(checkpoint={str(tmp_path / "store")!r}) if {is_stored} else {{}}
    stream = mh.stream(abs, from_queue(items, 0), scheduler=scheduler, num_workers=2, **options)
    consumer = threading.Thread(target=consume)
    consumer.start()
    began.wait()
    stream.close()
    items.put(None)
    consumer.join()
    """
    scripts.check(run(tmp_path, source, scheduler), "[]\n[]\n")


@pytest.mark.parametrize("scheduler", STREAMS)
def test_a_stream_that_is_closed_while_a_thread_is_inside_ends_with_that_thread(scheduler, tmp_path):
    """What it would have been told of the end it is told, and the source of the arguments is let go of."""
    source = """
    def items():
        try:
            yield 1
            began.set()
            go_on.wait()
            yield 2
        finally:
            print("let go of")

    go_on = threading.Event()
    told = []
    progress = mh.ProgressBar(lambda progress: told.append(progress.status))
    stream = mh.stream(abs, items(), scheduler=scheduler, num_workers=2, progress=progress, buffersize=4)
    consumer = threading.Thread(target=lambda: [None for _ in stream])
    consumer.start()
    began.wait()
    stream.close()
    go_on.set()
    consumer.join()
    del stream, consumer
    print(told[-1])
    """
    scripts.check(run(tmp_path, source, scheduler), "let go of\nclosed\n")


@pytest.mark.parametrize("scheduler", STREAMS)
def test_a_signal_handler_closes_a_stream_whose_next_result_is_waited_for(scheduler, tmp_path):
    source = """
    def told(*_):
        stream.close()
        print("closed", flush=True)

    def items():
        yield 0
        while True:
            began.set()
            time.sleep(0.05)
            yield 0

    signal.signal(signal.SIGALRM, told)
    stream = mh.stream(abs, items(), scheduler=scheduler, num_workers=2, buffersize=1)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    assert set(stream) == {0}
    """
    scripts.check(run(tmp_path, source, scheduler), "closed\n")


def test_ctrl_c_reaches_who_waits_for_another_thread_to_leave_a_stream(tmp_path):
    source = """
    items = queue.Queue()
    stream = mh.stream(abs, from_queue(items, 0), scheduler=scheduler, num_workers=2)
    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()
    began.wait()
    print("waits", flush=True)
    try:
        next(stream)
    except KeyboardInterrupt:
        print("interrupted")
    items.put(None)
    """
    with scripts.start(tmp_path, BEGIN + source, "threads") as program:
        program.wait_for("waits\n")
        # It waits in a moment; what comes before is an interrupt as well.
        program.process.send_signal(signal.SIGINT)
        outcome = program.wait()
    assert outcome.stdout == "waits\ninterrupted\n", outcome


@pytest.mark.parametrize("scheduler", POOLS)
def test_exit_handlers_end_what_daemon_threads_are_inside_of(scheduler, tmp_path):
    source = """
    def consume(results):
        for result in results:
            print(result, flush=True)
            began.set()

    @atexit.register  # before ours, and so run after it
    def at_exit():
        executor.shutdown(wait=False, cancel_futures=True)
        stream.close()
        print("ended")

    executor = mh.Executor(1, scheduler=scheduler)
    stream = mh.stream(time.sleep, iter([0, 3600]), scheduler=scheduler, num_workers=1)
    for results in [executor.map(time.sleep, iter([0, 1, 1]), buffersize=2), stream]:
        began.clear()
        threading.Thread(target=consume, args=[results], daemon=True).start()
        began.wait()
    time.sleep(0.2)  # they wait by now
    """
    outcome = run(tmp_path, source, scheduler)
    assert outcome.returncode == 0, outcome
    assert outcome.stdout.endswith("ended\n"), outcome


@pytest.mark.parametrize("scheduler", POOLS)
def test_a_program_ends_that_has_taken_some_results_of_a_map(scheduler, tmp_path):
    source = """
    executor = mh.Executor(1, scheduler=scheduler)
    results = executor.map(abs, range(9), buffersize=2)
    print(next(results))
    """
    scripts.check(run(tmp_path, source, scheduler), "0\n")
