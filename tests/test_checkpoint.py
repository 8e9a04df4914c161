"""Results that outlive the process: what is stored, what is found again, and what is said about the rest."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
from scripts import PATIENCE_S, check, run, start, until

import manyhands as mh
from manyhands import _native
from manyhands._naming import FunctionName, Unnamed, name_arguments


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "study.mh")


@pytest.fixture
def said(caplog):
    """What the last call has said about what was there."""
    caplog.set_level(logging.INFO, "manyhands.checkpoint")

    def last():
        messages = [record.getMessage() for record in caplog.records if record.name == "manyhands.checkpoint"]
        return messages[-1].partition(": ")[2]

    return last


HERE = {"scheduler": "synchronous"}
FACTOR = 2


def scaled(x):
    return x * FACTOR


def draw(x, rng):
    return x + rng.normal()


def record(path, x):
    """Returns `x`, and leaves a line."""
    with open(path, "a") as file:
        file.write(f"{x}\n")
    return x


def lines(path):
    return Path(path).read_text().split() if os.path.exists(path) else []


# What is found again


def test_what_is_stored_is_not_computed_again(path, tmp_path, said):
    log = str(tmp_path / "log")
    assert mh.map(record, [log] * 3, range(3), checkpoint=path, **HERE) == [0, 1, 2]
    assert mh.map(record, [log] * 5, range(5), checkpoint=path, **HERE) == [0, 1, 2, 3, 4]
    assert lines(log) == ["0", "1", "2", "3", "4"]
    assert said() == "3 of 5 results were there; to compute: 2 not computed before."
    assert mh.map(record, [log] * 5, range(5), checkpoint=path, **HERE) == [0, 1, 2, 3, 4]
    assert said() == "all 5 results were there."


def test_a_resumption_is_said_without_any_setting_and_a_first_run_is_not(tmp_path):
    source = """
        import manyhands as mh
        mh.map(abs, range({}), checkpoint="study.mh", scheduler="synchronous")
        """
    check(run(tmp_path, source.format(2), cwd=tmp_path), "")
    again = run(tmp_path, source.format(3), cwd=tmp_path)
    assert again.stderr == "study.mh: 2 of 3 results were there; to compute: 1 not computed before.\n"


def test_equal_calls_without_a_seed_are_kept_apart(path):
    drawn = mh.map(lambda x: os.urandom(8), [1] * 4, checkpoint=path, **HERE)
    assert len(set(drawn)) == 4
    assert mh.map(lambda x: os.urandom(8), [1] * 4, checkpoint=path, **HERE) == drawn
    more = mh.map(lambda x: os.urandom(8), [1] * 6, checkpoint=path, **HERE)
    assert more[:4] == drawn
    assert len(set(more)) == 6


def test_another_seed_is_another_result(path, said):
    first = mh.map(draw, range(4), seed=1, checkpoint=path, **HERE)
    other = mh.map(draw, range(4), seed=2, checkpoint=path, **HERE)
    assert said() == "0 of 4 results were there; to compute: 4 with other random numbers."
    assert other == mh.map(draw, range(4), seed=2, **HERE)
    assert mh.map(draw, range(4), seed=1, checkpoint=path, **HERE) == first
    assert said() == "all 4 results were there."


def test_a_place_has_its_stream_whatever_is_stored(path):
    mh.map(draw, [0, 1, 2], seed=3, checkpoint=path, **HERE)
    # The middle one is another argument: its stream is that of its place.
    want = mh.map(draw, [0, 7, 2, 3], seed=3, **HERE)
    for scheduler in ("threads", "processes", "fork"):
        copy = path + scheduler
        mh.map(draw, [0, 1, 2], seed=3, checkpoint=copy, **HERE)
        assert mh.map(draw, [0, 7, 2, 3], seed=3, checkpoint=copy, scheduler=scheduler, num_workers=2) == want


def test_a_changed_function_is_computed_again_and_said_by_what_changed(path, said, monkeypatch):
    mh.map(scaled, range(3), checkpoint=path, **HERE)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 5)
    assert mh.map(scaled, range(3), checkpoint=path, **HERE) == [0, 5, 10]
    assert said() == "0 of 3 results were there; to compute: 3 whose function has changed (the global 'FACTOR')."
    monkeypatch.undo()
    assert mh.map(scaled, range(3), checkpoint=path, **HERE) == [0, 2, 4]
    assert said() == "all 3 results were there."


def test_several_functions_share_a_file(path, said):
    mh.map(scaled, range(3), checkpoint=path, **HERE)
    assert mh.map(abs, range(3), checkpoint=path, **HERE) == [0, 1, 2]
    assert said() == "0 of 3 results were there; to compute: 3 that are new."
    assert mh.map(scaled, range(3), checkpoint=path, **HERE) == [0, 2, 4]
    assert said() == "all 3 results were there."


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "fork"])
def test_a_failure_is_recorded_and_tried_again(path, scheduler, said, tmp_path):
    flag = str(tmp_path / "flag")

    def fails_once(x):
        if x == 2 and not os.path.exists(flag):
            raise ValueError("not yet")
        return x

    where = {"scheduler": scheduler, "num_workers": 2, "checkpoint": path}
    with pytest.raises(ValueError, match="not yet"):
        mh.map(fails_once, range(4), **where)
    with mh.checkpoint.open(path) as study:
        (failure,) = study.failures
        assert (failure.index, failure.error) == (2, ("ValueError", "not yet"))
        with pytest.raises(mh.CheckpointError, match="it has failed"):
            failure.result()
    Path(flag).touch()
    assert mh.map(fails_once, range(4), **where) == [0, 1, 2, 3]
    assert "1 that failed before" in said()
    with mh.checkpoint.open(path) as study:
        assert study.failures == []


def test_a_task_that_ends_its_worker_is_recorded(path):
    with pytest.raises(mh.WorkerDied):
        mh.map(os._exit, [3], checkpoint=path, scheduler="processes", num_workers=1)
    (failure,) = mh.checkpoint.open(path).failures
    assert failure.error[0] == "WorkerDied"


def test_large_results_are_stored_whole(path):
    numpy = pytest.importorskip("numpy")

    def make(x):
        return {"values": numpy.full(300_000, x), "name": "é" * 70_000, "order": numpy.asfortranarray(numpy.eye(400))}

    for scheduler in ("processes", "fork", "threads"):
        copy = path + scheduler
        where = {"scheduler": scheduler, "num_workers": 2, "checkpoint": copy}
        first = mh.map(make, [1, 2], **where)
        # What is done to a result is not done to the stored one.
        first[0]["values"][:] = 9
        again = mh.map(make, [1, 2], **where)
        for x, result in zip([1, 2], again):
            assert (result["values"] == x).all()
            assert result["name"] == "é" * 70_000
            assert result["order"].flags.f_contiguous
            assert (result["order"] == numpy.eye(400)).all()
        result["values"][0] = 4
        assert mh.checkpoint.open(copy).check() == []


def test_classes_of_the_program_are_its_own_again(tmp_path):
    source = """
        import dataclasses, enum, sys
        import manyhands as mh

        class Kind(enum.Enum):
            GOOD = 1

        @dataclasses.dataclass(frozen=True)
        class Fit:
            value: float
            kind: Kind = Kind.GOOD
            def doubled(self):
                return 2 * self.value

        def fit(x):
            return Fit(x)

        fits = mh.map(fit, range(3), checkpoint="study.mh", scheduler=sys.argv[1], num_workers=1)
        if len(sys.argv) > 2:
            assert fits == [Fit(0), Fit(1), Fit(2)], fits
            assert fits[2].doubled() == 4 and fits[0].kind is Kind.GOOD
        """
    for scheduler in ("synchronous", "processes"):
        assert run(tmp_path, source, scheduler, cwd=tmp_path).returncode == 0
        again = run(tmp_path, source, scheduler, "again", cwd=tmp_path)
        assert again.returncode == 0, again
        assert "all 3 results were there" in again.stderr
        (tmp_path / "study.mh").unlink()


def test_a_result_that_cannot_be_pickled_says_where_it_was_to_go(path):
    for scheduler in ("synchronous", "threads"):
        with pytest.raises(mh.PicklingError) as caught:
            mh.map(lambda x: (x for x in [x]), [1], checkpoint=path, scheduler=scheduler, num_workers=1)
        assert any("study.mh" in note for note in getattr(caught.value, "__notes__", [str(caught.value)]))


# Names


def fresh(source, name="f"):
    """A function as a module that is not installed defines it."""
    namespace = {"__name__": "somewhere"}
    exec(compile(source, "<made here>", "exec"), namespace)
    return namespace[name]


def named(function):
    return FunctionName(function).digest


BASE = "K = 1\ndef g(x): return x\ndef f(x, y=2): return g(x) + y + K\n"


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("+ y", "- y"),
        BASE.replace("y=2", "y=3"),
        BASE.replace("K = 1", "K = 2"),
        BASE.replace("return x\n", "return -x\n"),
        BASE.replace("K = 1", "K = 1.0"),
    ],
)
def test_a_function_is_named_by_all_that_it_uses(changed):
    assert named(fresh(BASE)) == named(fresh(BASE))
    assert named(fresh(BASE)) != named(fresh(changed))


def test_lines_files_and_names_of_functions_do_not_matter():
    assert named(fresh(BASE)) == named(fresh("\n\n# a comment\n" + BASE))
    assert named(fresh(BASE)) == named(fresh(BASE.replace("def f(", "def h("), "h"))


def test_what_is_not_used_does_not_matter():
    assert named(fresh(BASE)) == named(fresh(BASE + "unused = 3\n"))


def closing_over(value):
    return lambda x: x + value


def test_closures_methods_partials_and_objects_are_named_by_content():
    class Model:
        def __init__(self, slope):
            self.slope = slope

        def __call__(self, x):
            return self.slope * x

        def fit(self, x):
            return self(x)

    for make in (closing_over, lambda v: partial(scaled, v), Model, lambda v: Model(v).fit):
        assert named(make(1)) == named(make(1))
        assert named(make(1)) != named(make(2))


def test_functions_that_refer_to_each_other_are_named():
    even = "def f(n): return n == 0 or g(n - 1)\ndef g(n): return n != 0 and f(n - 1)\n"
    assert named(fresh(even)) == named(fresh(even)) != named(fresh(even.replace("n != 0", "n > 0")))


def test_a_module_of_the_users_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for body in ("x", "x", "-x"):
        (tmp_path / "helpers_of_study.py").write_text(f"def inner(x): return {body}\ndef other(x): return {body} + 1\n")
        sys.modules.pop("helpers_of_study", None)
        (tmp_path / "__pycache__").exists() and [file.unlink() for file in (tmp_path / "__pycache__").iterdir()]
        import helpers_of_study

        namespace = {"helpers_of_study": helpers_of_study, "__name__": "somewhere"}
        exec("def f(x): return helpers_of_study.inner(x)", namespace)
        digests.add(named(namespace["f"]))
    sys.modules.pop("helpers_of_study", None)
    assert len(digests) == 2


NAMING = """
import dataclasses, enum, sys
import manyhands as mh
from manyhands._naming import FunctionName, name_arguments

WORDS = {"a", "b", "c", "d", "e"}

class Kind(enum.Enum):
    GOOD = 1
    BAD = 2

@dataclasses.dataclass
class Model:
    kind: Kind
    names: frozenset
    def run(self, x):
        return [x in {"u", "v", "w"} for _ in WORDS]

MODEL = Model(Kind.BAD, frozenset("xyz"))

def f(x, table={"k": {1, 2}}):
    def inner(y):
        return MODEL.run(y), WORDS
    return inner(x), table, Kind.GOOD

print(FunctionName(f).digest.hex(), FunctionName(MODEL.run).digest.hex())
print(name_arguments(({"q": WORDS}, MODEL, Kind.GOOD, f)).hex())
"""


def test_names_are_the_same_in_every_process(tmp_path):
    found = set()
    for seed, n_lines, folder in ((0, 0, "a"), (1, 3, "b"), (2, 0, "c")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / f"program{seed}.py"
        file.write_text("\n" * n_lines + NAMING)
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, str(file)]
        found.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(found) == 1


def test_a_class_is_named_alike_before_and_after_its_instances_were_pickled():
    import pickle

    class Point:
        def __init__(self, x):
            self.x = x

    def f(x):
        return Point(x)

    before = named(f)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Point(1))
    assert named(f) == before


def test_an_argument_that_cannot_be_named_is_refused_by_its_place(path):
    with pytest.raises(mh.CheckpointError, match=r"the argument of item 1 .* generator.* pickle cannot take it apart"):
        mh.map(len, [[1], (x for x in [])], checkpoint=path, **HERE)
    with pytest.raises(mh.CheckpointError, match=r"argument 1 of item 0 .* holds a _thread.lock"):
        mh.map(pow, [1], [[threading.Lock()]], checkpoint=path, **HERE)
    with pytest.raises(mh.CheckpointError, match=r"an argument of len\(.*holds a object, .*it has no content"):
        mh.compute(mh.delayed(len)([object()]), checkpoint=path, **HERE)
    with pytest.raises(Unnamed):
        name_arguments([object()])


LOCK = threading.Lock()


def locked(x):
    with LOCK:
        return x


def test_a_global_that_cannot_be_named_is_left_out_with_a_warning(path):
    with pytest.warns(mh.CheckpointWarning, match=r"which locked uses: LOCK \(holds a _thread.lock\)") as caught:
        mh.map(locked, [1], checkpoint=path, **HERE)
    assert caught[0].filename == __file__


def test_numpy_arguments_are_named_by_content(path, said):
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.arange(5), numpy.arange(5.0), numpy.arange(6)[::2]]
    mh.map(sum, arrays, checkpoint=path, **HERE)
    mh.map(sum, [array.copy() for array in arrays], checkpoint=path, **HERE)
    assert said() == "all 3 results were there."
    arrays[0][0] = 3
    assert mh.map(sum, arrays, checkpoint=path, **HERE)[0] == 13


def test_an_object_that_is_passed_again_after_it_has_changed_is_another_argument(path):
    def growing():
        shared = []
        for number in range(4):
            shared.append(number)
            yield shared

    assert mh.map(sum, growing(), checkpoint=path, **HERE) == [0, 1, 3, 6]
    assert mh.map(sum, growing(), checkpoint=path, **HERE) == [0, 1, 3, 6]


# Streams and graphs


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "fork"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_gives_what_is_stored_in_its_place(path, scheduler, ordered):
    where = {"scheduler": scheduler, "num_workers": 2, "seed": 5}
    want = mh.map(draw, range(40), **where)
    # Every third, the first four and the last are there.
    there = [k for k in range(40) if k % 3 == 0 or k < 4]
    mh.map(lambda x: None, there, checkpoint=path, **HERE)
    with mh.config.set(scheduler="synchronous"):
        some = [k if k in there else -1 - k for k in range(40)]
        mh.map(draw, some, seed=5, checkpoint=path)
    results = mh.stream(draw, range(40), ordered=ordered, checkpoint=path, **where)
    found = list(results)
    assert (found if ordered else sorted(found)) == (want if ordered else sorted(want))
    assert list(results) == []
    assert not mh.checkpoint.open(path).is_running


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_a_stream_may_be_left(path, scheduler):
    import itertools

    results = mh.stream(scaled, itertools.count(), checkpoint=path, scheduler=scheduler, num_workers=1)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(mh.CheckpointError, match="in use"):
        mh.map(scaled, [1], checkpoint=path, **HERE)
    results.close()
    results.close()
    assert list(results) == []
    assert len(mh.checkpoint.open(path)) >= 3
    assert mh.map(scaled, range(3), checkpoint=path, **HERE) == [0, 2, 4]
    results = mh.stream(scaled, itertools.count(), checkpoint=path, scheduler=scheduler, num_workers=1)
    next(results)
    del results
    assert mh.map(scaled, [1], checkpoint=path, **HERE) == [2]


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_the_error_of_a_source_comes_after_the_results_before_it(path, scheduler):
    def source():
        yield from range(6)
        raise RuntimeError("no more")

    mh.map(scaled, [4, 5], checkpoint=path, **HERE)
    results = mh.stream(scaled, source(), checkpoint=path, scheduler=scheduler, num_workers=1)
    found = []
    with pytest.raises(RuntimeError, match="no more"):
        found.extend(iter(results))
    assert found == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "fork"])
def test_a_graph_goes_on_from_what_is_stored(path, scheduler, said, tmp_path):
    log = str(tmp_path / "log")
    where = {"scheduler": scheduler, "num_workers": 2, "checkpoint": path}
    step = mh.delayed(record)
    parts = [step(log, k) for k in range(4)]
    assert mh.compute(mh.delayed(sum)(parts), **where) == (6,)
    assert sorted(lines(log)) == ["0", "1", "2", "3"]
    # One new part; the sum and what is made of it are new too.
    total = mh.delayed(sum)([*parts, step(log, 9)])
    assert mh.compute(total, {"twice": total + total}, parts[0], **where) == (15, {"twice": 30}, 0)
    assert sorted(lines(log)) == ["0", "1", "2", "3", "9"]
    assert said().startswith("4 of 7 results were there")
    (kept,) = mh.persist(total, **where)
    assert said() == "all 6 results were there."
    assert kept.key == total.key
    assert (kept + 1).compute(**HERE) == 16


def test_a_change_deep_in_a_graph_reaches_what_depends_on_it(path, said):
    def graph(first, kind):
        a, b = mh.delayed(scaled)(first), mh.delayed(scaled)(10)
        return mh.delayed(kind)([a, b])

    assert mh.compute(graph(1, sum), checkpoint=path, **HERE) == (22,)
    assert mh.compute(graph(2, sum), checkpoint=path, **HERE) == (24,)
    assert said().startswith("1 of 3 results were there")
    assert mh.compute(graph(2, max), checkpoint=path, **HERE) == (20,)
    assert said().startswith("2 of 3 results were there")


def test_a_graph_with_a_seed_draws_the_same(path):
    def graph(last):
        return [mh.delayed(draw)(k) for k in (1, 1, 1, last)]

    want = mh.compute(graph(5), seed=2, **HERE)
    mh.compute(graph(4), seed=2, checkpoint=path, **HERE)
    for scheduler in ("processes", "fork", "threads"):
        assert mh.compute(graph(5), seed=2, checkpoint=path, scheduler=scheduler, num_workers=1) == want


def test_equal_tasks_of_a_graph_without_a_seed_are_kept_apart(path):
    graph = [mh.delayed(lambda x: os.urandom(8))(1) for _ in range(3)]
    (first,) = mh.compute(graph, checkpoint=path, **HERE)
    assert len(set(first)) == 3
    assert mh.compute(graph, checkpoint=path, **HERE) == (first,)


def test_results_that_are_called_or_held_in_collections_are_inputs_too(path):
    make = mh.delayed(closing_over)(3)
    graph = mh.delayed(dict)({"a": (make(1), [make(2)]), "b": slice(make(0), None)})
    (first,) = mh.compute(graph, checkpoint=path + "a", **HERE)
    assert first == {"a": (4, [5]), "b": slice(3, None)}
    # Some of it is there: results stand in for tasks.
    mh.compute(make(1), make(0), checkpoint=path, **HERE)
    for scheduler in ("processes", "threads"):
        assert mh.compute(graph, checkpoint=path, scheduler=scheduler, num_workers=1) == (first,)


# Looking into a file


def test_a_checkpoint_tells_what_is_in_it(path):
    with pytest.raises(mh.CheckpointError, match="No such file"):
        mh.checkpoint.open(path)
    mh.map(pow, [2, 3], [5, 2], checkpoint=path, **HERE)
    before = time.time()
    with mh.checkpoint.open(Path(path)) as study:
        assert len(study) == 2
        assert study.format_version == 2
        first, second = study
        assert (first.function, first.index, first.argument, first.error) == ("pow", 0, "2, 5", None)
        assert second.result() == 9
        assert second.n_bytes > 0
        assert 0 <= first.duration < PATIENCE_S
        assert abs(first.finished - before) < PATIENCE_S
        assert repr(study) == f"<Checkpoint {path!r}: 2 results>"
        assert repr(first).startswith("<Task 0: pow(2, 5), in ")
        assert (study.is_running, study.damage, study.failures, study.check()) == (False, [], [], [])
    assert repr(study) == f"<Checkpoint {path!r}, closed>"
    with pytest.raises(ValueError, match="has been closed"):
        study.refresh()


def test_what_is_long_is_told_in_short(path):
    long = [10**5000, "x" * 10**6, 3.5, None, [1]]
    assert mh.map(bool, long, checkpoint=path, **HERE) == [True, True, True, False, True]
    arguments = [task.argument for task in mh.checkpoint.open(path)]
    assert arguments == ["…", "'" + "x" * 78 + "…", "3.5", "None", "…"]
    assert mh.map(draw, [1], seed=10**5000, checkpoint=path, **HERE) == mh.map(draw, [1], seed=10**5000, **HERE)


def test_durations_are_those_of_the_tasks(path):
    for scheduler in ("synchronous", "threads", "processes", "fork"):
        copy = path + scheduler
        mh.map(time.sleep, [0.02], checkpoint=copy, scheduler=scheduler, num_workers=1)
        (task,) = mh.checkpoint.open(copy)
        assert 0.02 <= task.duration < PATIENCE_S


def test_another_process_follows_a_run(tmp_path):
    source = """
        import sys, time
        import manyhands as mh
        def wait(x):
            while x and not __import__("os").path.exists(f"go{x}"):
                time.sleep(0.01)
            return x * x
        print(mh.map(wait, range(4), checkpoint="study.mh", scheduler="processes", num_workers=2), flush=True)
        """
    with start(tmp_path, source, cwd=tmp_path) as program:
        path = tmp_path / "study.mh"
        until(lambda: path.exists() and path.stat().st_size > 8192, "the run has begun")
        with mh.checkpoint.open(path) as study:
            seen = []
            for task in study.follow():
                seen.append(task.result())
                assert study.is_running or len(seen) == 4
                (tmp_path / f"go{len(seen)}").touch()
            assert sorted(seen) == [0, 1, 4, 9]
            assert not study.is_running
        check(program.wait(), "[0, 1, 4, 9]\n")


def test_two_runs_do_not_share_a_file(tmp_path):
    source = """
        import manyhands as mh
        stream = mh.stream(abs, iter(lambda: -1, 0), checkpoint="study.mh", scheduler="synchronous")
        print(next(stream), flush=True)
        input()
        """
    with start(tmp_path, source, cwd=tmp_path, stdin=subprocess.PIPE) as program:
        program.wait_for("1\n")
        path = str(tmp_path / "study.mh")
        with pytest.raises(mh.CheckpointError, match=rf"in use by another run \(process {program.pid} on ") as caught:
            mh.map(abs, [-1], checkpoint=path, **HERE)
        assert caught.value.filename == path
        os.kill(program.pid, signal.SIGKILL)
        program.process.wait()
    assert mh.map(abs, [-1], checkpoint=path, **HERE) == [1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_end_its_parent_s_hold_on_a_file(path):
    results = mh.stream(scaled, iter(lambda: 1, 0), checkpoint=path, **HERE)
    assert next(results) == 2
    child = os.fork()
    if child == 0:
        try:
            results.close()
            del results
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert mh.checkpoint.open(path).is_running
    assert next(results) == 2
    results.close()
    assert not mh.checkpoint.open(path).is_running
    assert len(mh.checkpoint.open(path)) == 2


def test_bad_checkpoints_are_refused_and_left_alone(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("x,y\n" * 5000)
    with pytest.raises(mh.CheckpointError, match="is left as it is"):
        mh.map(abs, [1], checkpoint=table, **HERE)
    assert table.read_text() == "x,y\n" * 5000
    with pytest.raises(mh.CheckpointError, match="no checkpoint of manyhands"):
        mh.checkpoint.open(table)
    with pytest.raises(mh.CheckpointError, match="No such file"):
        mh.map(abs, [1], checkpoint=tmp_path / "nowhere" / "study.mh", **HERE)
    with pytest.raises(TypeError, match="checkpoint=3.5 is not accepted: the name of a file"):
        mh.map(abs, [1], checkpoint=3.5, **HERE)


# Damage, former versions, full disks

# Where the first frame is.
FRAMES_AT = 8192


def test_a_damaged_file_is_reported_and_what_is_whole_is_used(path, tmp_path, said):
    mh.map(scaled, range(200), checkpoint=path, **HERE)
    data = bytearray(Path(path).read_bytes())
    middle = (FRAMES_AT + len(data)) // 2 // 512 * 512
    data[middle : middle + 512] = bytes(512)
    Path(path).write_bytes(data)
    with pytest.warns(mh.CheckpointWarning, match=r"damaged in 1 place.*salvage copies"):
        study = mh.checkpoint.open(path)
    assert 190 < len(study) < 200
    assert all(task.result() == 2 * task.index for task in study)
    saved = mh.checkpoint.salvage(path, tmp_path / "saved.mh")
    assert (saved.n_results, len(saved.damage)) == (len(study), 1)
    assert "results saved" in repr(saved)
    with pytest.raises(mh.CheckpointError, match="exists"):
        mh.checkpoint.salvage(path, tmp_path / "saved.mh")
    for copy in (path, tmp_path / "saved.mh"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert mh.map(scaled, range(200), checkpoint=copy, **HERE) == [2 * k for k in range(200)]
        # Others may come from anywhere, such as that of a file of another test's that is collected now.
        ours = [warning for warning in caught if issubclass(warning.category, mh.CheckpointWarning)]
        assert len(ours) == (1 if copy == path else 0)
        assert said().startswith(f"{len(study)} of 200 results were there")


def test_a_damaged_result_is_computed_again(path, said):
    mh.map(lambda x: "x" * 5000, range(3), checkpoint=path, **HERE)
    data = bytearray(Path(path).read_bytes())
    data[data.index(b"x" * 5000) + 700] = 0
    Path(path).write_bytes(data)
    study = mh.checkpoint.open(path)
    (damaged,) = study.check()
    with pytest.raises(mh.CheckpointError, match="is damaged"):
        damaged.result()
    assert mh.map(lambda x: "x" * 5000, range(3), checkpoint=path, **HERE) == ["x" * 5000] * 3
    assert said() == "2 of 3 results were there; to compute: 1 whose results are damaged."
    mh.map(lambda x: "x" * 5000, range(3), checkpoint=path, **HERE)
    assert said() == "all 3 results were there."


@pytest.mark.filterwarnings("ignore::manyhands.CheckpointWarning")
def test_files_that_were_changed_anywhere_give_right_results_or_an_error(path):
    want = [2 * k for k in range(30)]
    mh.map(scaled, range(30), checkpoint=path, **HERE)
    whole = Path(path).read_bytes()
    generator = random.Random(4)
    n_refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            at = generator.choice([generator.randrange(len(data)), generator.randrange(FRAMES_AT, FRAMES_AT + 2000)])
            length = generator.choice([1, 8, 100, 5000])
            data[at : at + length] = generator.choice([b"", bytes(length), generator.randbytes(length)])
        Path(path).write_bytes(data)
        try:
            assert mh.map(scaled, range(30), checkpoint=path, **HERE) == want
            study = mh.checkpoint.open(path)
            assert all(task in study.check() or task.result() == 2 * task.index for task in study)
        except mh.CheckpointError:
            n_refused += 1
    assert n_refused < 75


def test_a_write_that_was_cut_short_is_said(path, said):
    mh.map(scaled, range(10), checkpoint=path, **HERE)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-20])
    assert mh.map(scaled, range(10), checkpoint=path, **HERE) == [2 * k for k in range(10)]
    assert "9 of 10 results were there" in said()
    assert "cut short" in said()


def test_a_file_of_the_former_version_is_read_and_continued(path, said):
    mh.map(scaled, range(5), checkpoint=path, **HERE)
    old = _native._probe_checkpoint_as(Path(path).read_bytes(), 1)
    assert struct.unpack("<I", old[8:12]) == (1,)
    Path(path).write_bytes(old)
    study = mh.checkpoint.open(path)
    assert study.format_version == 1
    assert [task.result() for task in study] == [0, 2, 4, 6, 8]
    assert mh.map(scaled, range(7), checkpoint=path, **HERE) == [0, 2, 4, 6, 8, 10, 12]
    assert said().startswith("5 of 7 results were there")
    study = mh.checkpoint.open(path)
    assert study.format_version == 2
    assert len(study) == 7


def file_of_version_1():
    """A file of the former format, made once: its lines have a place and the bytes there, the last one the end."""
    lines = (Path(__file__).parents[1] / "crates/checkpoint/tests/version_1.txt").read_text().splitlines()
    data = bytearray()
    for at, _, digits in (line.partition(" ") for line in lines if not line.startswith("#")):
        data.extend(bytes(int(at, 16) - len(data)))
        data.extend(bytes.fromhex(digits))
    return bytes(data)


def test_a_file_that_the_former_version_wrote_is_read_and_added_to(path):
    Path(path).write_bytes(file_of_version_1())
    study = mh.checkpoint.open(path)
    assert study.format_version == 1
    assert study.check() == []
    values = [None, 7, "seven", {"seven": [7.0, (7,)]}, b"7" * 300]
    assert [task.result() for task in study] == values
    # Its results are of a function that nobody has any more.
    assert mh.map(scaled, range(2), checkpoint=path, **HERE) == [0, 2]
    study = mh.checkpoint.open(path)
    assert study.format_version == 2
    assert [task.result() for task in study] == [*values, 0, 2]


def test_a_later_version_is_refused_and_left_alone(path):
    mh.map(scaled, range(5), checkpoint=path, **HERE)
    later = _native._probe_checkpoint_as(Path(path).read_bytes(), 3)
    Path(path).write_bytes(later)
    for use in (lambda: mh.checkpoint.open(path), lambda: mh.map(scaled, [1], checkpoint=path, **HERE)):
        with pytest.raises(mh.CheckpointError, match="it has format 3, and this program knows formats up to 2"):
            use()
    assert Path(path).read_bytes() == later


FULL = """
    import errno, resource, signal, sys
    import manyhands as mh
    def large(x):
        return bytes([x % 251]) * 20_000
    scheduler, limit = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        if scheduler == "graph":
            mh.compute([mh.delayed(large)(k) for k in range(50)], checkpoint="study.mh", scheduler="threads")
        else:
            mh.map(large, range(50), checkpoint="study.mh", scheduler=scheduler, num_workers=2)
    except mh.CheckpointError as error:
        assert error.errno == errno.EFBIG and error.filename == "study.mh", error
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    study = mh.checkpoint.open("study.mh")
    assert not study.damage and not study.check() and not study.is_running
    assert all(task.result() == large(task.index) for task in study)
    print(len(study))
    """


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "fork", "graph"])
def test_a_full_disk_ends_the_run_and_keeps_what_is_there(tmp_path, scheduler):
    limit = 300_000
    outcome = run(tmp_path, FULL, scheduler, limit, cwd=tmp_path)
    assert outcome.returncode == 0, outcome
    text, count = outcome.stdout.splitlines()
    assert text.startswith("The checkpoint 'study.mh' could not be written: ")
    assert "which are kept" in text
    assert "were to be added" in text
    assert "are free there" in text
    assert int(count) <= 14
    assert (tmp_path / "study.mh").stat().st_size <= limit


def test_nothing_is_left_of_calls_that_have_ended(path):
    def count():
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))

    for scheduler in ("synchronous", "threads", "processes"):
        where = {"scheduler": scheduler, "num_workers": 2, "checkpoint": path}
        mh.map(scaled, range(3), **where)
        before = count()
        for number in range(20):
            mh.map(scaled, range(number), **where)
            mh.compute(mh.delayed(scaled)(number), **where)
            next(mh.stream(scaled, range(3), **where))
        gc.collect()
        until(lambda: all(now <= then for now, then in zip(count(), before)), "threads end")
