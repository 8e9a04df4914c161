"""Exceptions across a process border: as themselves, as their nearest relative, and never as a hang."""

import pickle
import subprocess
import sys
import textwrap
import threading
import traceback

import pytest

from manyhands import _failures, errors
from manyhands.errors import RemoteTraceback, TaskError

LOCK = threading.Lock()


def raised(exc, cause=None):
    """The exception as a task would leave it: raised, with frames."""
    try:
        raise exc from cause
    except BaseException as caught:
        return caught


def travel(exc, describe="fit(fold=3)"):
    return _failures.unpack(_failures.pack(raised(exc), describe))


def notes(exc):
    return "\n".join(getattr(exc, "__notes__", []))


class TwoArguments(ValueError):
    """Hands one argument to its base and wants two: pickle cannot rebuild it."""

    def __init__(self, name, count):
        super().__init__(f"{name} needs {count}")
        self.name = name
        self.count = count


class Prefixing(KeyError):
    """Its text grows with each call of its constructor."""

    def __init__(self, name):
        super().__init__(f"no model {name}")


class Reshaping(OSError):
    def __init__(self, path, *, mode):
        super().__init__(2, "no such data", path)
        self.mode = mode


class Holding(RuntimeError):
    """Holds a lock."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = LOCK


class HoldingBelow(Holding, LookupError):
    pass


class Pretending(ValueError):
    """Comes back from pickle as another type, and cannot be taken apart."""

    def __reduce__(self):
        return (KeyError, ("other",))

    def __init__(self, message):
        super().__init__(message)
        self.lock = LOCK


class Junk(ValueError):
    def __init__(self, message):
        super().__init__(message)
        self.lock = LOCK

    def __reduce__(self):
        return 5


class Exiting(ValueError):
    """Everything that a report might call ends the process."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = LOCK

    def __reduce__(self):
        sys.exit(1)

    __str__ = __repr__ = __reduce__

    def __getattr__(self, name):
        sys.exit(1)


class Silent(ValueError):
    def __str__(self):
        raise ZeroDivisionError


class Unsettable(ValueError):
    def __setattr__(self, name, value):
        raise TypeError("no attributes here")


class OwnReduce(ValueError):
    """Loses its notes on the way, as most hand-written reductions do."""

    def __reduce__(self):
        return (OwnReduce, self.args)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("text"),
        KeyError("key"),
        ValueError(),
        ValueError("many", 1, [2]),
        OSError(2, "no file", "a.csv"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(5),
        StopAsyncIteration(),
        GeneratorExit("g"),
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError("no memory"),
        RecursionError("too deep"),
        ImportError("no module", name="x"),
        SyntaxError("bad", ("f.py", 1, 2, "text")),
        errors.WorkerDied("fit(1)", "k", 4, None, 9, "last\nlines"),
        errors.PicklingError("m", "argument 1", ".lock", "r"),
        errors.TaskError("m", "a.B", "t", "tb"),
        errors.ConfigError("m"),
        subprocess.CalledProcessError(3, ["ls"]),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_what_pickles_arrives_as_itself(exc):
    copy = travel(exc)
    assert type(copy) is type(exc)
    assert copy.args == exc.args
    assert str(copy) == str(exc)
    assert {k: v for k, v in vars(copy).items() if k != "__notes__"} == vars(exc)
    assert "stands for" not in notes(copy)
    assert isinstance(copy.__cause__, RemoteTraceback)


def test_fields_outside_the_arguments_arrive():
    assert travel(OSError(2, "no file", "a.csv")).filename == "a.csv"
    assert travel(StopIteration(5)).value == 5
    assert travel(SystemExit(3)).code == 3
    assert travel(ImportError("m", name="x")).name == "x"
    assert travel(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")).start == 0


@pytest.mark.parametrize(
    "exc",
    [TwoArguments("ridge", 2), Prefixing("ridge"), Reshaping("a.csv", mode="r")],
    ids=lambda exc: type(exc).__name__,
)
def test_a_constructor_that_wants_other_arguments_is_not_called_again(exc):
    copy = travel(exc)
    assert type(copy) is type(exc)
    assert str(copy) == str(exc)
    assert copy.args == exc.args
    assert vars(copy) == vars(exc)
    assert getattr(copy, "filename", None) == getattr(exc, "filename", None)


@pytest.mark.parametrize(
    "exc, relative, reason",
    [
        (Holding("text"), RuntimeError, ".lock: cannot pickle '_thread.lock' object"),
        (HoldingBelow("text"), RuntimeError, ".lock: cannot pickle '_thread.lock' object"),
        (Pretending("text"), ValueError, "unpickled it is a KeyError"),
        (Junk("text"), ValueError, "__reduce__ must return a string or tuple"),
        (ValueError("text", LOCK), ValueError, "cannot pickle '_thread.lock' object"),
    ],
    ids=["lock", "lock in a base", "other type", "junk", "lock in args"],
)
def test_what_cannot_come_arrives_as_its_nearest_relative(exc, relative, reason):
    copy = travel(exc)
    assert type(copy) is relative
    assert str(exc) in str(copy)
    name = type(exc).__qualname__
    assert name in notes(copy)
    assert reason in notes(copy)
    assert "text" in copy.__cause__.text
    assert name in copy.__cause__.text


def test_an_exception_that_fights_back_arrives():
    copy = travel(Exiting("text"))
    assert type(copy) is ValueError
    assert "Exiting" in notes(copy)
    assert isinstance(copy.__cause__, RemoteTraceback)
    assert "Exiting" in copy.__cause__.text


def test_a_text_that_cannot_be_made_is_said():
    copy = travel(Silent("text"))
    assert type(copy) is Silent
    assert "Silent" in copy.__cause__.text


def test_an_exception_that_takes_no_attributes_arrives_with_its_cause():
    copy = travel(Unsettable("text"))
    assert type(copy) is Unsettable
    assert "Unsettable: text" in copy.__cause__.text
    _failures.annotate(copy, "fit(1)", None, "processes")


def test_huge_texts_are_shortened_in_copies_only():
    copy = travel(ValueError("x" * 5_000_000))
    assert len(str(copy)) == 5_000_000
    assert len(copy.__cause__.text) < 200_000
    relative = travel(Holding("x" * 5_000_000))
    assert type(relative) is RuntimeError
    assert len(str(relative)) < 50_000
    assert "characters left out" in str(relative)


def test_notes_of_the_task_itself_arrive():
    for cls in (ValueError, OwnReduce, TwoArguments, Holding):
        exc = cls("a", 2) if cls is TwoArguments else cls("a")
        exc.__notes__ = ["look at fold 3"]
        copy = travel(exc)
        assert notes(copy).count("look at fold 3") == 1


# Tracebacks


def deep(n):
    if n:
        return deep(n - 1)
    raise ValueError("bottom")


def chained():
    try:
        deep(2)
    except ValueError as error:
        raise TypeError("top") from error


def test_the_traceback_has_the_tasks_frames_and_its_causes():
    try:
        chained()
    except TypeError as error:
        copy = _failures.unpack(_failures.pack(error, "chained()"))
    text = copy.__cause__.text
    assert text.startswith("Worker process ")
    assert "task chained():" in text.splitlines()[0]
    assert "in deep" in text
    assert "ValueError: bottom" in text
    assert "direct cause" in text
    assert "TypeError: top" in text


def test_the_engines_frames_are_left_out(monkeypatch):
    code = compile("def run(f):\n    return f()\n", _failures._ENGINE + "_worker.py", "exec")
    namespace = {}
    exec(code, namespace)
    try:
        namespace["run"](chained)
    except TypeError as error:
        error.__traceback__ = error.__traceback__.tb_next  # this test's own frame; the engine's comes first now
        text = _failures.unpack(_failures.pack(error, None)).__cause__.text
    assert "_worker.py" not in text
    assert "in chained" in text


def test_frames_of_the_engine_alone_are_kept():
    code = compile("def run():\n    raise ValueError('engine')\n", _failures._ENGINE + "_worker.py", "exec")
    namespace = {}
    exec(code, namespace)
    try:
        namespace["run"]()
    except ValueError as error:
        error.__traceback__ = error.__traceback__.tb_next
        text = _failures.unpack(_failures.pack(error, None)).__cause__.text
    assert "_worker.py" in text


def test_long_and_circular_chains_end():
    exc = ValueError("last")
    other = KeyError("other")
    exc.__cause__, other.__cause__ = other, exc
    assert "last" in travel_as_is(exc).__cause__.text
    head = ValueError("head")
    current = head
    for i in range(20_000):
        current.__context__ = ValueError(str(i))
        current = current.__context__
    copy = travel_as_is(head)
    assert "head" in copy.__cause__.text
    while head is not None:  # taken apart by hand: older interpreters free it recursively
        head.__context__, head = None, head.__context__


def travel_as_is(exc):
    return _failures.unpack(_failures.pack(exc, None))


def test_recursion_errors_of_the_task_arrive():
    def endless():
        return endless()

    try:
        endless()
    except RecursionError as error:
        copy = travel_as_is(error)
    assert type(copy) is RecursionError
    assert "endless" in copy.__cause__.text


def test_it_prints_as_the_cause():
    text = "".join(traceback.format_exception(travel(ValueError("text"))))
    assert "RemoteTraceback" in text
    assert "Worker process" in text
    assert "The above exception was the direct cause" in text
    assert text.rstrip().endswith("ValueError: text")


# Groups

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")


@needs_groups
def test_a_group_arrives_with_its_members():
    copy = travel(ExceptionGroup("all", [ValueError("a"), ExceptionGroup("inner", [TwoArguments("b", 2)])]))
    assert type(copy) is ExceptionGroup
    assert copy.message == "all"
    assert type(copy.exceptions[0]) is ValueError
    assert type(copy.exceptions[1].exceptions[0]) is TwoArguments
    assert "TwoArguments: b needs 2" in copy.__cause__.text


@needs_groups
def test_members_that_cannot_come_are_replaced_by_their_relatives():
    copy = travel(ExceptionGroup("all", [KeyError("a"), ExceptionGroup("inner", [Holding("b")])]))
    assert type(copy) is ExceptionGroup
    assert type(copy.exceptions[0]) is KeyError
    inner = copy.exceptions[1].exceptions[0]
    assert type(inner) is RuntimeError
    assert str(inner) == "b"
    assert "Holding" in notes(inner)


@needs_groups
def test_groups_nested_without_end_are_bounded():
    exc = Holding("core")
    for depth in range(60):
        exc = ExceptionGroup(f"level {depth}", [exc])
    copy = travel(exc)
    assert isinstance(copy, Exception)
    assert "core" in copy.__cause__.text or "level" in copy.__cause__.text


# Between two real processes

WORKER = """
import sys, threading
from manyhands import _failures
{definitions}
try:
    {statement}
except BaseException as error:
    sys.stdout.write(_failures.pack(error, "task()").hex())
"""


def from_worker(definitions, statement, cwd):
    program = WORKER.format(definitions=textwrap.dedent(definitions), statement=statement)
    run = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return _failures.unpack(bytes.fromhex(run.stdout))


def test_an_exception_class_of_main_arrives(tmp_path):
    copy = from_worker(
        """
        class OutOfStock(LookupError):
            def __init__(self, item, left):
                super().__init__(f"{item}: {left} left")
                self.item = item
        """,
        "raise OutOfStock('apple', 0)",
        tmp_path,
    )
    assert type(copy).__name__ == "OutOfStock"
    assert isinstance(copy, LookupError)
    assert str(copy) == "apple: 0 left"
    assert copy.item == "apple"


def test_a_class_that_is_not_importable_here_arrives_as_a_task_error(tmp_path):
    (tmp_path / "only_there.py").write_text("class Special(ValueError): pass\n")
    copy = from_worker("import only_there", "raise only_there.Special('text')", tmp_path)
    assert type(copy) is TaskError
    assert copy.type_name == "only_there.Special"
    assert copy.text == "text"
    assert "only_there.Special: text" in str(copy)
    assert "No module named 'only_there'" in str(copy)
    assert "raise only_there.Special" in copy.traceback or "Special: text" in copy.traceback
    assert copy.traceback in copy.__cause__.text


# Notes that name the task


def test_the_note_names_the_task_once():
    exc = ValueError("text")
    _failures.annotate(exc, "fit(fold=3)", "fit-1", "threads")
    _failures.annotate(exc, "fit(fold=3)", "fit-1", "threads")
    assert exc.__notes__ == ["Raised by the task fit(fold=3) (key 'fit-1', scheduler 'threads')."]
    _failures.annotate(exc, "outer()", None, "processes")
    assert exc.__notes__[1:] == ["Raised by the task outer() (scheduler 'processes')."]


def test_the_note_is_printed():
    exc = travel(ValueError("text"))
    _failures.annotate(exc, "fit(fold=3)", None, "processes")
    assert "Raised by the task fit(fold=3)" in "".join(traceback.format_exception(exc))
    relative = travel(Holding("text"))
    assert "stands for a" in "".join(traceback.format_exception(relative))


# The exception types


@pytest.mark.parametrize(
    "error",
    [
        errors.Error("m"),
        errors.ConfigError("m"),
        errors.PicklingError("m", "argument 1", ".lock", "r"),
        errors.TaskError("m", "a.B", "t", "tb"),
        errors.RemoteTraceback("text"),
        errors.WorkerDied("fit(1)", "k", 4, 3, None, "last\nlines", retried=False),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error):
    error.__notes__ = ["n"]
    for protocol in range(2, 6):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)
        assert isinstance(copy, errors.Error) != isinstance(copy, RemoteTraceback)


def test_worker_died_says_what_happened():
    text = str(errors.WorkerDied("fit(3)", "fit-1", 4711, None, 11, "one\ntwo\n"))
    for part in ("4711", "fit(3)", "'fit-1'", "SIGSEGV", "once more, alone", "  | one\n  | two", "faulthandler"):
        assert part in text
    assert "SIGKILL" in str(errors.WorkerDied("f()", signal=9))
    assert "memory" in str(errors.WorkerDied("f()", signal=9))
    assert "exited with code 3" in str(errors.WorkerDied("f()", exitcode=3))
    assert "wrote nothing" in str(errors.WorkerDied("f()", exitcode=3))
    assert "once more" not in str(errors.WorkerDied("f()", exitcode=3, retried=False))
    assert "signal 200" in str(errors.WorkerDied("f()", signal=200))
    assert "does not say how" in str(errors.WorkerDied("f()"))


def test_pickling_errors_are_pickles_own_as_well():
    assert issubclass(errors.PicklingError, pickle.PicklingError)
    assert issubclass(errors.ConfigError, ValueError)
