"""What goes wrong in a task arrives as itself, with its name, and stops the rest."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback

import pytest

import manyhands as mh

# Before Python 3.11 exceptions have no notes that the interpreter would print; the list is kept all the same.
HAS_NOTES = sys.version_info >= (3, 11)


class Custom(Exception):
    """An exception of a module."""


class WithArguments(Exception):
    """Its constructor wants two arguments, and it keeps one text."""

    def __init__(self, name, code):
        super().__init__(f"{name} gave {code}")
        self.name = name
        self.code = code


class KeywordOnly(Exception):
    def __init__(self, *, reason):
        super().__init__()
        self.reason = reason

    def __str__(self):
        return f"because {self.reason}"


class HoldsALock(ValueError):
    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class CannotPrint(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fail(error):
    raise error


def invert(x):
    return 1 / x


def every_way(function, *args):
    """The ways to run one failing call; each raises."""
    columns = [[arg] for arg in args]
    return {
        "compute": lambda: mh.delayed(function)(*args).compute(),
        "persist": lambda: mh.delayed(function)(*args).persist(),
        "map": lambda: mh.map(function, *columns),
        "stream": lambda: list(mh.stream(function, *columns)),
        "unordered stream": lambda: list(mh.stream(function, *columns, ordered=False)),
        "submit": lambda: mh.submit(function, *args).result(),
    }


def raised_by(run):
    with pytest.raises(BaseException) as caught:
        run()
    return caught.value


VERBS = list(every_way(fail, 1))


@pytest.fixture(params=VERBS)
def verb(request):
    return request.param


def notes_of(error):
    return "\n".join(getattr(error, "__notes__", []))


def full_text(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


# The exception itself


def test_a_builtin_exception_arrives_as_itself(verb):
    error = raised_by(every_way(invert, 0)[verb])
    assert type(error) is ZeroDivisionError
    assert str(error) == "division by zero"


def ask_for_more_than_there_can_be(_):
    return len(bytearray(1 << 60))


def test_memory_that_the_system_refuses_is_the_tasks_own_error(verb):
    error = raised_by(every_way(ask_for_more_than_there_can_be, 1)[verb])
    assert type(error) is MemoryError
    assert mh.map(abs, [-1, -2]) == [1, 2]


def test_arguments_and_attributes_arrive(verb):
    error = raised_by(every_way(fail, Custom("text", 3, [1]))[verb])
    assert type(error) is Custom
    assert error.args == ("text", 3, [1])
    error = raised_by(every_way(open, "/no/such/file")[verb])
    assert type(error) is FileNotFoundError
    assert (error.errno, error.filename) == (2, "/no/such/file")


def test_the_note_names_the_task_and_its_arguments(verb, where):
    error = raised_by(every_way(invert, 0)[verb])
    assert "invert(0)" in notes_of(error)
    assert f"scheduler {where.scheduler!r}" in notes_of(error)
    if verb in ("compute", "persist"):
        assert "key 'invert-" in notes_of(error)
    elif verb != "submit":
        assert "item 0" in notes_of(error)


def test_the_note_of_a_map_counts_the_items():
    error = raised_by(lambda: mh.map(lambda i: 1 / (i - 37), range(100)))
    assert "lambda(37), item 37" in notes_of(error)


def test_long_arguments_are_shortened_in_the_note():
    def fail_with(values, *, options):
        raise Custom

    error = raised_by(lambda: mh.delayed(fail_with)(list(range(100_000)), options="x" * 100_000).compute())
    assert "fail_with" in notes_of(error)
    assert len(notes_of(error)) < 1000


def test_arguments_that_cannot_be_printed_do_not_hide_the_error(verb):
    class Unprintable:
        def __repr__(self):
            raise RuntimeError("no repr")

    def fail_with(thing):
        raise Custom("the real one")

    error = raised_by(every_way(fail_with, Unprintable())[verb])
    assert (type(error).__name__, error.args) == ("Custom", ("the real one",))
    assert "fail_with" in notes_of(error)


def test_the_traceback_of_the_worker_is_there(verb, where):
    error = raised_by(every_way(invert, 0)[verb])
    text = full_text(error)
    assert "in invert" in text
    assert "return 1 / x" in text
    if where.is_elsewhere:
        assert type(error.__cause__).__name__ == "RemoteTraceback"
        assert "Worker process" in str(error.__cause__)


def test_the_causes_of_an_error_are_told(verb):
    def fail_twice():
        try:
            {}["first"]
        except KeyError as error:
            raise Custom("second") from error

    error = raised_by(every_way(lambda _: fail_twice(), 0)[verb])
    assert type(error).__name__ == "Custom"
    assert "KeyError: 'first'" in full_text(error)


# Exceptions that are hard to send


def test_an_exception_of_a_local_class(verb):
    class Local(LookupError):
        pass

    error = raised_by(every_way(fail, Local("here"))[verb])
    assert type(error).__name__ == "Local"
    assert isinstance(error, LookupError)
    assert error.args == ("here",)


def test_an_exception_of_the_main_module(verb):
    space = {"__name__": "__main__"}
    exec("class Mine(Exception):\n    pass\ndef f(_):\n    raise Mine('text', 3)\n", space)
    error = raised_by(every_way(space["f"], 0)[verb])
    assert type(error).__name__ == "Mine"
    assert error.args == ("text", 3)


def test_an_exception_whose_constructor_wants_more(verb):
    error = raised_by(every_way(fail_with_arguments, 0)[verb])
    assert type(error) is WithArguments
    assert str(error) == "solver gave 7"
    assert (error.name, error.code) == ("solver", 7)
    error = raised_by(every_way(fail_with_keyword, 0)[verb])
    assert type(error) is KeywordOnly
    assert error.reason == "of this"


def fail_with_arguments(_):
    raise WithArguments("solver", 7)


def fail_with_keyword(_):
    raise KeywordOnly(reason="of this")


def fail_with_lock(_):
    raise HoldsALock("cannot travel")


def test_an_exception_that_holds_a_lock(verb, where):
    error = raised_by(every_way(fail_with_lock, 0)[verb])
    assert isinstance(error, ValueError)
    assert "cannot travel" in str(error)
    if where.is_elsewhere:
        # Its constructor makes a lock anew each time; the nearest relative does not.
        assert type(error) is ValueError
        assert "HoldsALock" in notes_of(error)
        assert "lock" in notes_of(error)


def fail_without_text(_):
    raise CannotPrint


def test_an_exception_that_cannot_be_printed(verb):
    error = raised_by(every_way(fail_without_text, 0)[verb])
    assert type(error) is CannotPrint


@pytest.mark.skipif(not HAS_NOTES, reason="exception groups came with Python 3.11")
def test_a_group_of_exceptions(verb):
    error = raised_by(every_way(fail, ExceptionGroup("several", [ValueError("a"), Custom("b")]))[verb])
    assert type(error) is ExceptionGroup
    assert [type(member) for member in error.exceptions] == [ValueError, Custom]


def test_a_task_that_exits(verb):
    error = raised_by(every_way(sys.exit, 3)[verb])
    assert type(error) is SystemExit
    assert error.code == 3
    assert mh.map(abs, [-1]) == [1]


def test_exceptions_that_python_itself_looks_for(verb):
    """A StopIteration that ends nothing, a cancellation that nobody asked for."""
    for raised in (StopIteration(5), StopAsyncIteration("x"), GeneratorExit("x"), asyncio.CancelledError("x")):
        error = raised_by(every_way(fail, raised)[verb])
        # From an iterator, the first would pass for its end: the test below.
        is_end = isinstance(raised, StopIteration) and "stream" in verb
        assert type(error) is (RuntimeError if is_end else type(raised))


def test_a_stop_iteration_in_a_task_does_not_end_a_stream_quietly():
    for ordered in (True, False):
        error = raised_by(lambda ordered=ordered: list(mh.stream(fail, [StopIteration(5)], ordered=ordered)))
        assert type(error) is RuntimeError
        assert str(error) == "a task of the stream raised StopIteration"
        assert type(error.__cause__) is StopIteration
        assert error.__cause__.value == 5


def test_one_exception_object_in_many_tasks():
    shared = Custom("shared")
    for _ in range(3):
        error = raised_by(lambda: mh.map(fail, [shared] * 10))
        assert type(error) is Custom
        assert error.args == ("shared",)
        assert notes_of(error).count("Raised by the task") <= 3


# The rest


def slow_marks(folder, i):
    """Leaves a file behind, late enough for a failure elsewhere to be heard of first."""
    if i == 0:
        raise Custom("stop")
    time.sleep(0.02)
    (folder / str(i)).touch()


def test_the_rest_is_cancelled(tmp_path, verb):
    n_tasks = 1000
    runs = {
        "compute": lambda: mh.compute([mh.delayed(slow_marks)(tmp_path, i) for i in range(n_tasks)]),
        "persist": lambda: mh.persist([mh.delayed(slow_marks)(tmp_path, i) for i in range(n_tasks)]),
        "map": lambda: mh.map(slow_marks, [tmp_path] * n_tasks, range(n_tasks)),
        "stream": lambda: list(mh.stream(slow_marks, [tmp_path] * n_tasks, range(n_tasks))),
        "unordered stream": lambda: list(mh.stream(slow_marks, [tmp_path] * n_tasks, range(n_tasks), ordered=False)),
        "submit": lambda: mh.submit(slow_marks, tmp_path, 0).result(),
    }
    error = raised_by(runs[verb])
    assert type(error) is Custom
    # Those under way may end; the others never start, not even later.
    mh.map(abs, range(10))
    n_done = len(list(tmp_path.iterdir()))
    assert n_done < 900
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) <= n_done + 3


def test_what_depends_on_a_failure_never_runs(tmp_path):
    def mark(_):
        (tmp_path / "ran").touch()

    failed = mh.delayed(invert)(0)
    error = raised_by(lambda: mh.compute(mh.delayed(mark)(failed), mh.delayed(mark)([failed])))
    assert type(error) is ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_next_run_works_at_once(verb):
    for _ in range(5):
        assert type(raised_by(every_way(invert, 0)[verb])) is ZeroDivisionError
        assert mh.delayed(invert)(2).compute() == 0.5
        assert mh.map(invert, [1, 2]) == [1.0, 0.5]


def test_a_failure_among_many_tasks():
    for n_tasks in (1, 2, 10, 1000):
        for bad in {0, n_tasks // 2, n_tasks - 1}:
            divisors = [int(i != bad) for i in range(n_tasks)]
            error = raised_by(lambda divisors=divisors: mh.map(invert, divisors))
            assert type(error) is ZeroDivisionError
            assert f"item {bad}" in notes_of(error)
            error = raised_by(lambda divisors=divisors: mh.compute([mh.delayed(invert)(d) for d in divisors]))
            assert type(error) is ZeroDivisionError


def test_failures_of_all_tasks_at_once():
    assert type(raised_by(lambda: mh.map(invert, [0] * 500))) is ZeroDivisionError
    assert mh.map(invert, [1]) == [1.0]


def test_an_error_in_the_items_of_a_map():
    def items():
        yield 1
        raise Custom("no more items")

    error = raised_by(lambda: mh.map(invert, items()))
    assert type(error) is Custom
    assert "task" not in notes_of(error)
    assert mh.map(invert, [1]) == [1.0]


def test_what_cannot_be_iterated_over():
    for run in (mh.map, mh.stream):
        with pytest.raises(TypeError, match="not iterable|iterate|iteration"):
            run(invert, 3)
        with pytest.raises(TypeError, match="at least one iterable"):
            run(invert)


# Objects that cannot be sent


def test_an_argument_that_cannot_be_pickled(where):
    def use(model, count=1):
        return repr(count)

    bad = {"inner": [1, threading.Lock()]}
    for what, run in {
        "argument 'model'": lambda: mh.delayed(use)(bad).compute(),
        "argument 'count'": lambda: mh.delayed(use)(1, count=bad).compute(),
        "argument 'model' ": lambda: mh.map(use, [1, bad, 3]),
        "argument 'count' ": lambda: mh.submit(use, 1, count=bad).result(),
        " argument 'model'": lambda: list(mh.stream(use, [1, bad])),
    }.items():
        # The items of a stream come after its workers have been forked.
        if not (where.is_processes or (where.is_fork and what.startswith(" "))):
            run()
            continue
        with pytest.raises(mh.PicklingError) as caught:
            run()
        message = str(caught.value)
        assert what.strip() in message
        assert "['inner'][1]" in message
        assert "lock" in message
        assert 'scheduler="threads"' in message
        assert 'scheduler="fork"' in message
        assert mh.map(abs, [-1]) == [1]


def test_a_function_that_cannot_be_pickled(where):
    lock = threading.Lock()

    def guarded(x):
        with lock:
            return x

    for verb, run in every_way(guarded, 1).items():
        if not where.is_processes:
            run()
            continue
        error = raised_by(run)
        assert isinstance(error, mh.PicklingError), verb
        assert "function" in str(error)
        assert "guarded" in str(error)
        assert "lock" in str(error)
        assert 'scheduler="threads"' in str(error)
        assert 'scheduler="fork"' in str(error)
        assert mh.map(abs, [-1]) == [1]


def test_a_result_that_cannot_be_pickled(where):
    def make(_):
        return {"deep": (1, threading.Lock())}

    for verb, run in every_way(make, 1).items():
        if not where.is_elsewhere:
            run()
            continue
        error = raised_by(run)
        assert isinstance(error, mh.PicklingError), verb
        assert "result of" in str(error)
        assert "make" in str(error)
        assert "['deep'][1]" in str(error)
        assert 'scheduler="threads"' in str(error)
        assert "make(1)" in notes_of(error)
        assert mh.map(abs, [-1]) == [1]


def test_a_result_that_cannot_be_unpickled_here(where):
    class Stubborn:
        def __reduce__(self):
            return (fail, (Custom("not here"),))

    for verb, run in every_way(lambda _: Stubborn(), 1).items():
        if not where.is_elsewhere:
            run()
            continue
        error = raised_by(run)
        assert type(error).__name__ == "Custom", verb
        assert mh.map(abs, [-1]) == [1]


def test_an_argument_that_cannot_be_unpickled_there(where):
    class Stubborn:
        def __reduce__(self):
            return (fail, (Custom("not there"),))

    for verb, run in every_way(id, Stubborn()).items():
        if not (where.is_processes or (where.is_fork and "stream" in verb)):
            run()
            continue
        error = raised_by(run)
        assert type(error).__name__ == "Custom", verb
        assert mh.map(abs, [-1]) == [1]


def test_what_belongs_to_this_process_is_named_when_it_cannot_be_sent(where):
    def use(thing):
        return type(thing).__name__

    stream = mh.stream(abs, [1])
    for thing, name in ((mh.submit(abs, -1), "Future"), (stream, "Stream"), (iter_twice(), "generator")):
        if where.is_processes:
            with pytest.raises(mh.PicklingError, match=f"argument 'thing' .*{name}"):
                mh.map(use, [thing])
        else:
            assert mh.map(use, [thing])[0].endswith(name)
    stream.close()


def iter_twice():
    yield from (1, 2)
