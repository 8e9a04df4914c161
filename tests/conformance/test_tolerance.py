"""Tasks that fail and do not end everything: `on_error`, and tasks that are tried again."""

from __future__ import annotations

import collections
import functools
import logging
import os
import random
import signal
import sys
import threading
import traceback

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts import until

import manyhands as mh

# What becomes of failures does not depend on how many workers there are beyond one.
NUM_WORKERS = (2,)


class Refused(ValueError):
    """Of this module, which workers import."""


def invert(x):
    return 1 / x


def add(*terms):
    return sum(terms)


def refuse(reason):
    raise Refused(reason)


def leave(code):
    raise SystemExit(code)


def fail_at_first(n_times, folder, error=Refused):
    """Fail the first so many times, whoever runs it; then tell how often it ran."""
    n_runs = 0
    while True:
        try:
            os.close(os.open(f"{folder}/{n_runs}", os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            n_runs += 1
    if n_runs < n_times:
        raise error(f"run {n_runs}")
    return n_runs + 1


def draw_at_first(folder, key, n_times, rng):
    """Draw, fail the first so many times, and tell what was drawn."""
    drawn = (int(rng.integers(2**60)), random.random(), float(np.random.random()))
    folder = f"{folder}/{key}"
    os.makedirs(folder, exist_ok=True)
    fail_at_first(n_times, folder)
    return drawn


def notes_of(error):
    return "\n".join(getattr(error, "__notes__", []))


# What takes the place of a result


def test_the_exception_takes_the_place_of_the_result(where):
    for ordered in (True, False):
        stream = mh.stream(invert, [1, 0, 2, 0, 4], on_error="return", ordered=ordered)
        assert sorted(map(str, stream)) == ["0.25", "0.5", "1.0", "division by zero", "division by zero"]
    results = mh.map(invert, [1, 0, 2, 0, 4], on_error="return")
    assert [type(result) for result in results] == [float, ZeroDivisionError, float, ZeroDivisionError, float]
    assert results == list(mh.map(invert, [1], on_error="return")) + results[1:]
    for index in (1, 3):
        assert f"invert(0), item {index}" in notes_of(results[index])
        assert f"scheduler {where.scheduler!r}" in notes_of(results[index])
        text = "".join(traceback.format_exception(results[index]))
        assert "return 1 / x" in text


def test_places_are_left_out():
    assert mh.map(invert, [1, 0, 2, 0, 4, 0], on_error="skip") == [1, 0.5, 0.25]
    assert list(mh.stream(invert, [0, 1, 0, 0, 2, 0], on_error="skip")) == [1, 0.5]
    assert sorted(mh.stream(invert, [0, 1, 0, 0, 2, 0], on_error="skip", ordered=False)) == [0.5, 1]
    assert mh.map(invert, [0], on_error="skip") == list(mh.stream(invert, [0] * 9, on_error="skip")) == []


def test_many_failures_among_many_calls():
    items = [index % 7 for index in range(3000)]
    whole = [1 / item for item in items if item]
    assert mh.map(invert, items, on_error="skip") == whole
    assert list(mh.stream(invert, iter(items), on_error="skip")) == whole
    returned = mh.map(invert, items, on_error="return")
    assert [item for item, result in zip(items, returned) if isinstance(result, ZeroDivisionError)] == [0] * 429
    assert [result for result in returned if isinstance(result, float)] == whole


def test_arguments_of_failed_calls_are_let_go():
    """A stream in which everything fails is as bounded as any other."""
    taken = []

    def source():
        for index in range(2000):
            taken.append(index)
            yield "x" * 10_000

    stream = mh.stream(refuse, source(), on_error="return", buffersize=8)
    for index, error in enumerate(stream):
        assert isinstance(error, Refused)
        assert len(taken) <= index + 1 + 8
    assert len(taken) == 2000


def test_what_was_computed_is_never_confused_with_what_failed():
    """A task may return an exception of its own accord."""
    results = mh.map(lambda x: ValueError(x) if x else 1 / x, [1, 0], on_error="skip")
    assert [(type(result), result.args) for result in results] == [(ValueError, (1,))]


def test_raise_is_the_default():
    for keywords in ({}, {"on_error": "raise"}):
        with pytest.raises(ZeroDivisionError):
            mh.map(invert, [1, 0], **keywords)
        with pytest.raises(ZeroDivisionError):
            mh.compute([mh.delayed(invert)(0)], **keywords)


def test_exits_are_not_tolerated():
    """What is no Exception says that the program is to end, on every scheduler alike."""
    for on_error in ("return", "skip"):
        with pytest.raises(SystemExit):
            mh.map(leave, [3], on_error=on_error, retries=2)
        with pytest.raises(SystemExit):
            list(mh.stream(leave, [3], on_error=on_error))
        with pytest.raises(SystemExit):
            mh.compute([mh.delayed(leave)(3)], on_error=on_error)


@pytest.mark.parametrize("on_error", ["return", "skip"])
@pytest.mark.parametrize("verb", ["map", "stream", "compute"])
def test_ctrl_c_is_not_tolerated(verb, on_error, tmp_path):
    """The signal comes from outside, while a task runs or rests until it is tried again."""

    def interrupt():
        until(lambda: any(tmp_path.iterdir()), "the task has failed")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    keywords = {"on_error": on_error, "retries": 3, "retry_delay": 3600}
    with pytest.raises(KeyboardInterrupt):
        if verb == "compute":
            mh.compute([mh.delayed(fail_at_first)(9, tmp_path)], **keywords)
        elif verb == "map":
            mh.map(fail_at_first, [9], [tmp_path], **keywords)
        else:
            list(mh.stream(fail_at_first, [9], [tmp_path], **keywords))
    assert mh.map(abs, [-1]) == [1]


# Graphs


def test_what_depends_on_a_failed_task_fails_with_its_exception():
    broken, whole = mh.delayed(invert)(0), mh.delayed(invert)(2)
    both = mh.delayed(add)(whole, broken)
    further = both + 1
    results = mh.compute([broken, whole, both, further, whole + 1], on_error="return")[0]
    assert [type(result) for result in results] == [
        ZeroDivisionError,
        float,
        ZeroDivisionError,
        ZeroDivisionError,
        float,
    ]
    assert results[0] is results[2] is results[3]
    assert (results[1], results[4]) == (0.5, 1.5)
    assert f"invert(0) (key {broken.key!r}" in notes_of(results[3])
    # Not only where the culprit itself was asked for.
    (only,) = mh.compute([further], on_error="return")
    assert type(only[0]) is ZeroDivisionError
    assert f"invert(0) (key {broken.key!r}" in notes_of(only[0])


def test_it_does_not_run(tmp_path):
    def leave_a_trace(value):
        (tmp_path / "ran").touch()
        return value

    broken = mh.delayed(invert)(0)
    other = mh.delayed(invert)(4)
    assert mh.compute([mh.delayed(leave_a_trace)(broken), other], on_error="skip") == ([0.25],)
    assert not (tmp_path / "ran").exists()


def test_of_several_culprits_the_first_argument_is_named():
    causes = [mh.delayed(refuse)(reason) for reason in ("a", "b", "c")]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        total = mh.delayed(add)(*[causes[index] for index in order])
        (result,) = mh.compute([total], on_error="return")
        assert str(result[0]) == "abc"[order[0]]


def test_a_place_is_left_out_of_the_collection_that_holds_it():
    broken, whole = mh.delayed(invert)(0), mh.delayed(invert)(2)
    given_and_left = [
        ([broken, whole, 3], [0.5, 3]),
        ((broken, whole), (0.5,)),
        ({"broken": broken, "whole": whole}, {"whole": 0.5}),
        ({broken: 1, whole: 2}, {0.5: 2}),
        ({broken, whole}, {0.5}),
        (frozenset([broken, whole]), frozenset([0.5])),
        ([[broken], [whole, [broken, whole]]], [[], [0.5, [0.5]]]),
        (collections.OrderedDict(a=broken, b=whole), collections.OrderedDict(b=0.5)),
    ]
    for given_one, left in given_and_left:
        (result,) = mh.compute(given_one, on_error="skip")
        assert result == left
        assert type(result) is type(left)
    assert mh.compute(*[one for one, _ in given_and_left], on_error="skip") == tuple(left for _, left in given_and_left)
    (persisted,) = mh.persist([broken, whole], on_error="skip")
    assert [one.compute() for one in persisted] == [0.5]


def test_what_cannot_be_left_out_raises():
    Pair = collections.namedtuple("Pair", "first second")
    broken, whole = mh.delayed(invert)(0), mh.delayed(invert)(2)
    for given_one in (broken, Pair(whole, broken), [Pair(whole, broken)], slice(whole, broken)):
        with pytest.raises(ZeroDivisionError) as caught:
            mh.compute(whole, given_one, on_error="skip")
        assert 'on_error="return"' in notes_of(caught.value)
        assert "invert(0)" in notes_of(caught.value)
    with pytest.raises(ZeroDivisionError):
        broken.compute(on_error="skip")
    assert type(broken.compute(on_error="return")) is ZeroDivisionError


def test_a_persisted_exception_is_a_value():
    (kept,) = mh.persist(mh.delayed(invert)(0), on_error="return")
    assert type(kept.compute()) is ZeroDivisionError


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_graph_loses_what_depends_on_failures_and_nothing_else(data):
    n_tasks = data.draw(st.integers(1, 25))
    rows = [
        sorted(data.draw(st.sets(st.integers(0, index - 1), max_size=3))) if index else [] for index in range(n_tasks)
    ]
    failing = data.draw(st.sets(st.integers(0, n_tasks - 1), max_size=4))
    tasks, expected = [], []
    for index, row in enumerate(rows):
        function = refuse if index in failing else add
        tasks.append(mh.delayed(function)(*([index] if index in failing else [*[tasks[k] for k in row], 1])))
        lost = [expected[k] for k in row if isinstance(expected[k], str)]
        if index in failing:
            expected.append(str(index))
        else:
            expected.append(lost[0] if lost else sum(expected[k] for k in row) + 1)
    wanted = data.draw(st.sets(st.integers(0, n_tasks - 1), min_size=1))
    asked = [tasks[index] for index in sorted(wanted)]
    (results,) = mh.compute(asked, on_error="return")
    shown = [str(result) if isinstance(result, Refused) else result for result in results]
    assert shown == [expected[index] for index in sorted(wanted)]
    (left,) = mh.compute(asked, on_error="skip")
    assert left == [result for result in shown if not isinstance(result, str)]


# Tried again


def every_way(function, *args, **keywords):
    columns = [[arg] for arg in args]
    return {
        "compute": lambda: mh.delayed(function)(*args).compute(**keywords),
        "graph": lambda: mh.compute([mh.delayed(list)([mh.delayed(function)(*args)])], **keywords)[0][0][0],
        "persist": lambda: mh.delayed(function)(*args).persist(**keywords).compute(),
        "map": lambda: mh.map(function, *columns, **keywords)[0],
        "stream": lambda: next(mh.stream(function, *columns, **keywords)),
        "unordered stream": lambda: next(mh.stream(function, *columns, ordered=False, **keywords)),
    }


@pytest.mark.parametrize("verb", list(every_way(invert, 1)))
def test_a_task_that_fails_is_tried_again(verb, tmp_path):
    run = every_way(fail_at_first, 3, tmp_path, retries=3, retry_delay=0.001)[verb]
    assert run() == 4


@pytest.mark.parametrize("verb", list(every_way(invert, 1)))
def test_the_last_failure_is_raised_and_says_how_often_it_was_tried(verb, tmp_path):
    run = every_way(fail_at_first, 9, tmp_path, retries=2, retry_delay=0)[verb]
    with pytest.raises(Refused, match="run 2") as caught:
        run()
    assert "It was tried 3 times" in notes_of(caught.value)
    assert "fail_at_first(9" in notes_of(caught.value)
    assert len(os.listdir(tmp_path)) == 3


def test_the_last_failure_takes_the_place_of_the_result(tmp_path):
    folders = [tmp_path / str(index) for index in range(4)]
    for folder in folders:
        folder.mkdir()
    results = mh.map(fail_at_first, [0, 1, 2, 3], folders, retries=2, retry_delay=0, on_error="return")
    assert results[:3] == [1, 2, 3]
    assert isinstance(results[3], Refused)
    assert "It was tried 3 times" in notes_of(results[3])


@pytest.mark.parametrize("retry_on", [KeyError, (KeyError, OSError), Refused, (KeyError, ValueError), Exception])
def test_only_for_the_exceptions_that_are_meant(retry_on, tmp_path):
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    run = every_way(fail_at_first, 1, tmp_path, retries=5, retry_delay=0, retry_on=retry_on)["map"]
    if issubclass(Refused, classes):
        assert run() == 2
    else:
        with pytest.raises(Refused) as caught:
            run()
        assert "tried" not in notes_of(caught.value)
        assert len(os.listdir(tmp_path)) == 1


def test_exceptions_defined_here_and_now(tmp_path):
    class Passing(Exception):
        pass

    def try_it(folder):
        return fail_at_first(2, folder, Passing)

    assert mh.map(try_it, [tmp_path], retries=2, retry_delay=0, retry_on=Passing) == [3]
    (tmp_path / "more").mkdir()
    assert mh.delayed(try_it)(tmp_path / "more").compute(retries=2, retry_delay=0, retry_on=(Passing,)) == 3


def test_it_draws_the_same_numbers_again(tmp_path):
    def drawn(folder, n_times):
        folder = tmp_path / folder
        n_times = [n_times if index % 2 else 0 for index in range(12)]
        keywords = {"seed": 5, "retries": 2, "retry_delay": 0.001}
        calls = [mh.delayed(draw_at_first)(folder / "graph", index, n) for index, n in enumerate(n_times)]
        return (
            mh.map(draw_at_first, [folder / "map"] * 12, range(12), n_times, **keywords),
            list(mh.stream(draw_at_first, [folder / "stream"] * 12, range(12), n_times, **keywords)),
            mh.compute(calls, **keywords),
        )

    # In threads a seed does not reach the global states, which is told.
    with mh.config.set(random_misuse="ignore"):
        undisturbed, disturbed = drawn("calm", 0), drawn("rough", 2)
    if mh.config.get("scheduler") == "threads":
        # The global states are shared there.
        undisturbed, disturbed = (
            [[each[0] for each in one] for one in (*got[:2], got[2][0])] for got in (undisturbed, disturbed)
        )
    assert disturbed == undisturbed


def test_a_worker_is_not_kept_by_a_task_that_rests(tmp_path):
    """With one worker, the other task must end before the first is tried again; it waits to be told."""

    def first(folder):
        if not (folder / "second").exists():
            raise Refused
        return "first"

    def second(folder):
        (folder / "second").touch()
        return "second"

    tasks = [mh.delayed(first)(tmp_path), *[mh.delayed(second)(tmp_path) for _ in range(3)]]
    (results,) = mh.compute(tasks, retries=30, retry_delay=0.01, num_workers=1)
    assert results == ["first", "second", "second", "second"]


def test_closing_a_stream_ends_tasks_that_rest(tmp_path):
    stream = mh.stream(fail_at_first, [0, 10**6], [tmp_path / "a", tmp_path / "b"], retries=10**6, retry_delay=3600)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert next(stream) == 1
    stream.close()
    assert mh.map(abs, [-1]) == [1]


def test_ctrl_c_ends_the_rest_of_a_task(where, tmp_path):
    """Also in the calling thread, which waits itself."""
    began = threading.Event()

    def interrupt():
        until(lambda: any(tmp_path.iterdir()), "the task has failed")
        os.kill(os.getpid(), signal.SIGINT)
        began.set()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        mh.compute(mh.delayed(fail_at_first)(9, tmp_path), retries=3, retry_delay=3600)
    assert began.wait(60)
    assert mh.map(abs, [-1]) == [1]


# From the configuration


def test_retries_may_be_configured(tmp_path):
    for name in "abcd":
        (tmp_path / name).mkdir()
    with mh.config.set(retries=2, retry_delay=0.001):
        assert mh.map(fail_at_first, [2], [tmp_path / "a"]) == [3]
        assert mh.delayed(fail_at_first)(2, tmp_path / "b").compute() == 3
        assert mh.submit(fail_at_first, 2, tmp_path / "c").result(120) == 3
        with pytest.raises(Refused, match="run 0"):
            mh.map(fail_at_first, [2], [tmp_path / "d"], retries=0)
    future = mh.submit(fail_at_first, 9, tmp_path / "d")
    assert isinstance(future.exception(120), Refused)


def test_configured_retries_hold_for_executors(where, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    with mh.config.set(retries=2, retry_delay=0.001), mh.Executor(2, scheduler=where.scheduler) as executor:
        assert executor.submit(fail_at_first, 2, tmp_path / "a").result(120) == 3
        results = executor.map(fail_at_first, [1, 9], [tmp_path / "b", tmp_path / "c"])
        assert next(results) == 2
        with pytest.raises(Refused, match="run 2"):
            next(results)


# What is not accepted


@pytest.mark.parametrize(
    "keywords, error, parts",
    [
        ({"on_error": "ignore"}, ValueError, ["on_error='ignore'", '"raise"', '"return"', '"skip"']),
        ({"on_error": None}, ValueError, ["on_error=None"]),
        ({"retries": -1}, ValueError, ["retries=-1", "from 0"]),
        ({"retries": 1.5}, ValueError, ["retries=1.5"]),
        ({"retries": True}, ValueError, ["retries=True"]),
        ({"retry_delay": -1}, ValueError, ["retry_delay=-1"]),
        ({"retry_delay": float("nan")}, ValueError, ["retry_delay=nan"]),
        ({"timeout": 0}, ValueError, ["timeout=0", "above 0"]),
        ({"timeout": "5"}, ValueError, ["timeout='5'"]),
        ({"retry_on": "ValueError"}, TypeError, ["'ValueError' is not a class"]),
        ({"retry_on": [ValueError]}, TypeError, ["or a tuple of them"]),
        ({"retry_on": ()}, TypeError, ["names no exception"]),
        ({"retry_on": (ValueError, KeyboardInterrupt)}, TypeError, ["KeyboardInterrupt is not one"]),
        ({"retry_on": int}, TypeError, ["<class 'int'>"]),
    ],
)
def test_what_is_not_accepted_is_said_before_anything_runs(keywords, error, parts, tmp_path):
    def leave_a_trace(_):
        (tmp_path / "ran").touch()

    for run in (
        lambda: mh.map(leave_a_trace, [1], **keywords),
        lambda: mh.stream(leave_a_trace, [1], **keywords),
        lambda: mh.compute(mh.delayed(leave_a_trace)(1), **keywords),
        lambda: mh.persist(mh.delayed(leave_a_trace)(1), **keywords),
    ):
        with pytest.raises(error) as caught:
            run()
        for part in parts:
            assert part in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_limit_is_refused_where_nothing_can_be_stopped(where):
    calls = (
        lambda: mh.map(abs, [1], timeout=60),
        lambda: list(mh.stream(abs, [1], timeout=60)),
        lambda: mh.compute(mh.delayed(abs)(1), timeout=60),
    )
    for call in calls:
        if where.is_elsewhere:
            call()
            continue
        with pytest.raises(mh.ConfigError, match=r"timeout=60.*cannot be kept.*processes") as caught:
            call()
        assert where.scheduler in str(caught.value)


def test_a_configured_limit_that_cannot_be_kept_says_where_it_comes_from_and_a_call_can_do_without(where):
    with mh.config.set(timeout=60):
        assert mh.map(abs, [-1], timeout=float("inf")) == [1]
        if not where.is_elsewhere:
            with pytest.raises(
                mh.ConfigError, match=r'timeout=60.0 \(config.set\).*give this call timeout=float\("inf"\)'
            ):
                mh.map(abs, [-1])


def test_a_configured_limit_is_for_the_programs_own_calls(where):
    """A call of a task's is part of the task, and runs in its worker."""

    def nested(limit):
        with mh.config.set(timeout=60.0):
            return mh.map(abs, [-1, -2], **limit)

    keywords = {} if where.is_elsewhere else {"scheduler": "processes"}
    assert mh.map(nested, [{}], **keywords) == [[1, 2]]
    with pytest.raises(mh.ConfigError, match="inside of that task"):
        mh.map(nested, [{"timeout": 5}], **keywords)


# Together with what tasks say, and with checkpoints


def speak_and_fail_at_first(folder, x):
    """Fail twice if `x` is odd, and say so each time."""
    folder = f"{folder}/{x}"
    os.makedirs(folder, exist_ok=True)
    n_runs = len(os.listdir(folder))
    print("task", x, "run", n_runs)
    print("error", x, n_runs, file=sys.stderr)
    logging.getLogger("study").warning("logged %d %d", x, n_runs)
    fail_at_first(2 * (x % 2), folder)
    return x


@pytest.mark.parametrize("verb", ["map", "compute"])
def test_in_order_every_try_is_heard_in_its_tasks_place(verb, tmp_path, capsys):
    class Printer(logging.Handler):
        def emit(self, record):
            print(record.getMessage(), file=sys.stderr)

    printer = Printer()
    logging.getLogger("study").addHandler(printer)
    try:
        if verb == "map":
            call = functools.partial(speak_and_fail_at_first, str(tmp_path))
            assert mh.map(call, range(6), relay="ordered", retries=3, retry_delay=0, chunksize=1) == list(range(6))
        else:
            # One after the other, so that there is one order only.
            last = 0
            for x in range(6):
                last = mh.delayed(lambda before, x: speak_and_fail_at_first(str(tmp_path), x))(last, x)
            assert mh.compute(last, relay="ordered", retries=3, retry_delay=0) == (5,)
    finally:
        logging.getLogger("study").removeHandler(printer)
    said = [(x, run) for x in range(6) for run in range(3 if x % 2 else 1)]
    out, error = capsys.readouterr()
    assert out == "".join(f"task {x} run {run}\n" for x, run in said)
    assert error == "".join(f"error {x} {run}\nlogged {x} {run}\n" for x, run in said)


def test_in_order_a_task_that_fails_for_good_is_heard_too(tmp_path, capsys):
    call = functools.partial(speak_and_fail_at_first, str(tmp_path))
    got = mh.map(call, range(4), relay="ordered", retries=1, retry_delay=0, on_error="return", chunksize=1)
    assert [type(result) for result in got] == [int, Refused, int, Refused]
    said = [(x, run) for x in range(4) for run in range(2 if x % 2 else 1)]
    assert capsys.readouterr().out == "".join(f"task {x} run {run}\n" for x, run in said)


def note_or_fail(folder, x):
    """Leave a line; fail for multiples of 3 until things are mended."""
    with open(f"{folder}/log", "a") as file:
        file.write(f"{x}\n")
    if x % 3 == 0 and not os.path.exists(f"{folder}/mended"):
        raise Refused(x)
    return x


def all_of(verb, folder, items, **keywords):
    call = functools.partial(note_or_fail, str(folder))
    if verb == "map":
        return mh.map(call, items, **keywords)
    if verb == "stream":
        return list(mh.stream(call, items, **keywords))
    if verb == "unordered":
        return sorted(mh.stream(call, items, ordered=False, **keywords))
    (results,) = mh.compute([mh.delayed(note_or_fail)(str(folder), x) for x in items], **keywords)
    return results


@pytest.mark.parametrize("verb", ["map", "stream", "unordered", "compute"])
def test_a_checkpoint_keeps_all_but_what_failed(verb, tmp_path):
    path = tmp_path / "study.mh"
    ask = functools.partial(all_of, verb, tmp_path, checkpoint=path)
    assert ask(range(0, 10, 2), on_error="skip") == [2, 4, 8]
    # What was there, what is new, and what fails anew, side by side.
    assert ask(range(10), on_error="skip") == [1, 2, 4, 5, 7, 8]
    study = mh.checkpoint.open(path)
    assert sorted(task.error for task in study.failures) == [("Refused", str(x)) for x in (0, 3, 6, 9)]
    (tmp_path / "mended").touch()
    assert ask(range(10), on_error="skip") == list(range(10))
    runs = collections.Counter(map(int, (tmp_path / "log").read_text().split()))
    assert runs == {x: {0: 3, 6: 3, 3: 2, 9: 2}.get(x, 1) for x in range(10)}


def test_a_checkpoint_knows_of_exceptions_that_are_results(tmp_path):
    path = tmp_path / "study.mh"
    results = all_of("map", tmp_path, range(4), checkpoint=path, on_error="return")
    assert [type(result) for result in results] == [Refused, int, int, Refused]
    assert len(mh.checkpoint.open(path).failures) == 2
    (tmp_path / "mended").touch()
    assert all_of("map", tmp_path, range(4), checkpoint=path, on_error="return") == list(range(4))


def test_only_the_last_try_counts_for_a_checkpoint(tmp_path):
    path = tmp_path / "study.mh"
    assert mh.map(fail_at_first, [2], [str(tmp_path)], checkpoint=path, retries=2, retry_delay=0) == [3]
    study = mh.checkpoint.open(path)
    assert not study.failures
    assert [task.result() for task in study] == [3]
    assert mh.map(fail_at_first, [2], [str(tmp_path)], checkpoint=path, retries=2, retry_delay=0) == [3]
