"""What tasks print, warn of, log and draw is heard by whoever called, wherever they run."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import random
import sys
import time
import warnings

import numpy as np
import pytest
from scripts import until

import manyhands as mh


class OwnWarning(UserWarning):
    """Of this module, which workers cannot import."""

    def __init__(self, what, code):
        super().__init__(what, code)
        self.code = code

    def __str__(self):
        return f"{self.args[0]} (code {self.code})"


@pytest.fixture
def records():
    """The log records that reach this program's root logger."""

    class Keeper(logging.Handler):
        def emit(self, record):
            kept.append(record)

    kept = []
    keeper = Keeper()
    logging.root.addHandler(keeper)
    yield kept
    logging.root.removeHandler(keeper)


def talk(x):
    time.sleep(0.003 * (x % 3 == 0))
    print("out", x)
    print("error", x, file=sys.stderr)
    print("part", x, end="; " if x % 2 else "\n")
    return x


def test_what_tasks_print_appears(capsys):
    assert mh.map(talk, range(8)) == list(range(8))
    out, error = capsys.readouterr()
    for x in range(8):
        assert out.count(f"out {x}\n") == 1
        assert error.count(f"error {x}\n") == 1


def test_it_goes_where_the_program_has_it_go():
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        mh.map(talk, range(3))
        total = mh.delayed(sum)([mh.delayed(talk)(x) for x in range(3, 5)])
        assert total.compute() == 7
    for x in range(5):
        assert out.getvalue().count(f"out {x}\n") == 1
    assert sorted(error.getvalue().splitlines()) == [f"error {x}" for x in range(5)]


def graph():
    first = [mh.delayed(talk)(x) for x in range(6)]
    second = [mh.delayed(lambda *xs: talk(10 + sum(xs)))(*first[i : i + 3]) for i in range(4)]
    return mh.delayed(max)(second)


FACES = {
    "map": lambda **keywords: mh.map(talk, range(12), **keywords),
    "compute": lambda **keywords: mh.compute(graph(), **keywords),
    "persist": lambda **keywords: mh.persist(graph(), **keywords)[0].compute(),
    "stream": lambda **keywords: list(mh.stream(talk, range(12), **keywords)),
    "unordered": lambda **keywords: sorted(mh.stream(talk, range(12), ordered=False, **keywords)),
}


@pytest.mark.parametrize("face", FACES)
def test_in_order_it_is_what_the_serial_run_prints(face, capsys):
    call = FACES[face]
    serial = call(scheduler="synchronous")
    expected = capsys.readouterr()
    assert call(relay="ordered") == serial
    assert capsys.readouterr() == expected


@pytest.mark.parametrize("face", ["map", "compute", "persist", "stream"])
def test_in_order_a_task_that_is_tried_again_is_heard_in_its_place(face, tmp_path, capsys):
    def flaky(x):
        print(x)
        if x % 2 and not os.path.exists(tmp_path / f"{face}-{x}"):
            (tmp_path / f"{face}-{x}").touch()
            raise LookupError(x)

    keywords = {"retries": 1, "retry_delay": 0.01, "relay": "ordered"}
    if face == "map":
        mh.map(flaky, range(6), **keywords)
    elif face == "stream":
        list(mh.stream(flaky, range(6), **keywords))
    else:
        getattr(mh, face)([mh.delayed(flaky)(x) for x in range(6)], **keywords)
    assert capsys.readouterr().out.split() == ["0", "1", "1", "2", "3", "3", "4", "5", "5"]


@pytest.mark.parametrize("face", FACES)
def test_without_relay_nothing_appears(face, capsys):
    call = FACES[face]
    call(relay=False)
    assert capsys.readouterr() == ("", "")
    call()
    assert "out 5\n" in capsys.readouterr().out


def test_relay_is_a_setting_too(capsys):
    with mh.config.set(relay=False):
        mh.map(talk, range(3))
        mh.submit(talk, 3).result()
        assert capsys.readouterr() == ("", "")
        mh.map(talk, [4], relay=True)
    assert capsys.readouterr().out.startswith("out 4\n")


@pytest.mark.parametrize("value", [1.5, "loud", None.__class__])
def test_other_ways_to_relay_are_refused(value):
    with pytest.raises(mh.ConfigError, match='"ordered"'):
        mh.map(abs, [1], relay=value)


def test_in_order_a_failure_ends_what_appears(capsys):
    """As in the serial run, at least where the first task fails."""

    def fail(x):
        print("before", x)
        raise ValueError(x)

    with pytest.raises(ValueError):
        mh.map(fail, range(1), relay="ordered")
    assert capsys.readouterr().out == "before 0\n"


def test_a_submitted_call_is_heard_when_its_result_is_asked_for(capsys, recwarn, records):
    def all_of_it():
        print("printed")
        warnings.warn("warned", stacklevel=1)
        logging.getLogger("of.tasks").warning("logged")

    mh.submit(all_of_it).result()
    assert capsys.readouterr().out == "printed\n"
    assert [str(one.message) for one in recwarn] == ["warned"]
    assert [record.getMessage() for record in records] == ["logged"]


# Warnings


def warn(x):
    warnings.warn(OwnWarning("careful", 7), stacklevel=1)
    return x


def own(caught):
    """Without those that come from anywhere, such as that of a file that is collected at this moment."""
    return [one for one in caught if one.category is OwnWarning]


LINE_OF_WARNING = warn.__code__.co_firstlineno + 1


def test_warnings_keep_their_class_text_and_line():
    with pytest.warns(OwnWarning) as caught:
        assert mh.map(warn, range(2)) == [0, 1]
    warning = caught[0]
    assert (str(warning.message), warning.message.code) == ("careful (code 7)", 7)
    assert (warning.filename, warning.lineno) == (__file__, LINE_OF_WARNING)


@pytest.mark.parametrize(("action", "n_shown"), [("always", 20), ("default", 1), ("once", 1), ("ignore", 0)])
def test_the_programs_filters_decide_how_often_a_line_warns(action, n_shown):
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            mh.map(warn, range(20))
            mh.compute(mh.delayed(warn)(1)) if action == "ignore" else None
        assert len(own(caught)) == n_shown


def test_a_warning_that_is_an_error_is_the_tasks():
    def guarded(x):
        try:
            warn(x)
        except OwnWarning:
            return "caught"

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert mh.map(guarded, [1]) == ["caught"]
        with pytest.raises(OwnWarning, match="careful"):
            mh.map(warn, range(3))
    with pytest.warns(OwnWarning):
        mh.map(warn, [1])


def test_what_a_task_catches_does_not_arrive(where):
    def quiet(x):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn(x)
        return len([one for one in caught if one.category is OwnWarning])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # `catch_warnings` changes what all threads share: there, it is for one task at a time.
        alone = {"num_workers": 1} if where.scheduler == "threads" else {}
        assert mh.map(quiet, range(3), **alone) == [1, 1, 1]
    assert own(caught) == []


def test_in_order_warnings_and_records_come_with_the_rest(capsys):
    def mixed(x):
        time.sleep(0.003 * (x % 3 == 0))
        print("one", x, file=sys.stderr)
        warnings.warn(f"two {x}", stacklevel=1)
        logging.getLogger("of.tasks").error("three %d", x)
        print("four", x, file=sys.stderr)

    handler = logging.StreamHandler()
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # As the lines of this file do not change, pytest's own showing of warnings is what is compared.
            warnings.showwarning = lambda message, *_: sys.stderr.write(f"{message}\n")
            mh.map(mixed, range(10), relay="ordered")
    finally:
        logging.root.removeHandler(handler)
    expected = [f"{word} {x}" for x in range(10) for word in ("one", "two", "three", "four")]
    assert capsys.readouterr().err.splitlines() == expected


# Log records


def log(x):
    logger = logging.getLogger("of.tasks.inner")
    logger.debug("not wanted %d", x)
    try:
        1 / x
    except ZeroDivisionError:
        logger.warning("divided by %s", x, exc_info=True, extra={"unit": {"m"}, "open": sys.stdout})


def test_log_records_arrive_with_all_they_have(records, where):
    mh.map(log, [0])
    (record,) = records
    assert (record.name, record.levelname, record.getMessage()) == ("of.tasks.inner", "WARNING", "divided by 0")
    assert record.unit == {"m"}
    assert (record.pathname, record.funcName) == (__file__, "log")
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith("divided by 0\nTraceback")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert (record.process != os.getpid()) == where.is_elsewhere


def test_what_is_logged_is_heard_while_the_task_goes_on(tmp_path):
    answer = tmp_path / "heard"

    class Answering(logging.Handler):
        def emit(self, record):
            if record.getMessage() == "is anybody there?":
                answer.touch()

    def ask(x):
        logging.getLogger("of.tasks").warning("is anybody there?")
        until(answer.exists, "somebody has heard the task")
        return x

    handler = Answering()
    logging.root.addHandler(handler)
    try:
        assert mh.map(ask, range(2)) == [0, 1]
        answer.unlink()
        assert mh.delayed(ask)(2).compute() == 2
    finally:
        logging.root.removeHandler(handler)


def test_the_levels_of_the_programs_loggers_decide(records):
    logger = logging.getLogger("of.tasks")
    for level, n_records in [(logging.DEBUG, 2), (logging.WARNING, 1), (logging.ERROR, 0), (logging.DEBUG, 2)]:
        logger.setLevel(level)
        mh.map(log, [0])
        assert len(records) == n_records, level
        records.clear()
    logger.setLevel(logging.NOTSET)
    mh.map(log, [0])
    assert len(records) == 1
    logging.disable(logging.ERROR)
    try:
        mh.map(log, [0])
        assert len(records) == 1
    finally:
        logging.disable(logging.NOTSET)


def test_without_relay_nothing_is_logged(records):
    mh.map(log, [0], relay=False)
    assert records == []


# Random numbers without a seed


def from_random(x):
    return random.random()


def from_numpy(x):
    return np.random.random()


def misuses(call):
    """The warnings of this kind, always shown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [one for one in caught if one.category is mh.UndeclaredRandomWarning]


@pytest.mark.parametrize(("function", "state"), [(from_random, "random"), (from_numpy, "numpy.random")])
@pytest.mark.parametrize("face", ["map", "compute", "stream", "submit", "executor", "checkpoint"])
def test_drawing_without_a_seed_is_reported_once(function, state, face, tmp_path):
    def call():
        if face == "map":
            mh.map(function, range(30))
        elif face == "compute":
            mh.compute([mh.delayed(function)(x) for x in range(30)])
        elif face == "stream":
            list(mh.stream(function, range(30)))
        elif face == "executor":
            with mh.Executor() as executor:
                list(executor.map(function, range(30)))
        elif face == "checkpoint":
            mh.map(function, range(30), checkpoint=tmp_path / "kept")
        else:
            mh.submit(function, 1).result()

    (warning,) = misuses(call)
    text = str(warning.message)
    assert f".{function.__name__}' ({__file__}:{function.__code__.co_firstlineno})" in text
    for word in (f"`{state}`", "seed=1", "`rng`", "random_misuse"):
        assert word in text
    assert warning.filename == __file__


def test_each_state_is_reported_once_whatever_tasks_draw_from():
    def either_or_both(x):
        return (x % 3 != 1 and random.random()), (x % 3 != 0 and np.random.random())

    for call in (
        lambda: mh.map(either_or_both, range(30), chunksize=1),
        lambda: list(mh.stream(either_or_both, range(30), chunksize=1)),
        lambda: mh.compute([mh.delayed(either_or_both)(x) for x in range(30)]),
    ):
        told = [str(one.message) for one in misuses(call)]
        for state in ("`random`", "`numpy.random`"):
            assert sum(state in text for text in told) == 1, told


def test_by_default_a_line_reports_it_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            mh.map(from_numpy, range(10))
        mh.map(from_numpy, range(10))
    assert len([one for one in caught if one.category is mh.UndeclaredRandomWarning]) == 2


def test_what_is_declared_is_not_reported(where):
    def with_rng(x, rng=None):
        return np.random.default_rng(x).normal()

    def own_generator(x):
        return random.Random(x).random(), np.random.RandomState(x).normal()

    def seeding(x):
        random.seed(x)
        np.random.seed(x)
        return random.random(), np.random.normal()

    def restoring(x):
        states = random.getstate(), np.random.get_state()
        drawn = seeding(x)
        random.setstate(states[0])
        np.random.set_state(states[1])
        return drawn

    for function in (with_rng, own_generator, seeding, restoring):
        assert misuses(functools.partial(mh.map, function, range(20))) == [], function
    for function in (from_random, from_numpy):
        # A seed does not reach what threads share.
        found = misuses(functools.partial(mh.map, function, range(20), seed=1))
        assert len(found) == (where.scheduler == "threads")
        assert misuses(functools.partial(mh.map, abs, range(20))) == []


def test_a_caller_who_draws_is_not_reported():
    items = (np.random.normal() + random.random() for _ in range(200))
    assert misuses(lambda: mh.map(abs, items)) == []
    assert misuses(lambda: list(mh.stream(abs, (random.random() for _ in range(200))))) == []


def test_drawing_more_than_a_state_holds_is_reported_too():
    def much(x):
        return np.random.random(3_000).sum(), [random.random() for _ in range(312)]

    found = set()

    def are_both_found():
        for warning in misuses(lambda: mh.map(much, range(3))):
            found.update(name for name in ("`random`", "`numpy.random`") if name in str(warning.message))
        return len(found) == 2

    # Not at once in threads, where several change the state, just after others have set it.
    until(are_both_found, "it is noticed")


def test_misuse_can_be_an_error_or_be_ignored():
    with mh.config.set(random_misuse="ignore"):
        assert misuses(lambda: mh.map(from_numpy, range(5))) == []
    with mh.config.set(random_misuse="error"):
        with pytest.raises(mh.UndeclaredRandomError, match="from_numpy"):
            mh.map(from_numpy, range(5))
        with pytest.raises(mh.UndeclaredRandomError, match="from_random"):
            mh.compute(mh.delayed(from_random)(1))
        with pytest.raises(mh.UndeclaredRandomError, match="from_random"):
            mh.submit(from_random, 1).result()
        assert mh.map(abs, [-1]) == [1]
    with pytest.raises(mh.ConfigError, match='"warn", "error" or "ignore"'):
        mh.config.set(random_misuse="shout")


def test_tasks_without_a_seed_share_no_stream(where):
    """Not even those of workers that are copies of one program."""

    def draw(x):
        time.sleep(0.001)
        return random.random(), np.random.random()

    with mh.config.set(random_misuse="ignore"):
        drawn = mh.map(draw, range(40))
        again = mh.map(draw, range(40))
    for source in zip(*(drawn + again)):
        assert len(set(source)) == len(source)
