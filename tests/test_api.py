"""The public face as programs see it: names, signatures, documentation with examples that run, types."""

from __future__ import annotations

import concurrent.futures
import doctest
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import manyhands as mh
from manyhands import config, errors

CLASSES = [mh.Delayed, mh.Future, mh.Graph, mh.checkpoint.Checkpoint, mh.random.MRG32k3a, config.set]
FUNCTIONS = [
    mh.compute,
    mh.cpu_count,
    mh.delayed,
    mh.map,
    mh.persist,
    mh.shutdown,
    mh.stream,
    mh.submit,
    mh.checkpoint.open,
    mh.checkpoint.salvage,
    mh.checkpoint.Task,
    mh.checkpoint.Task.result,
    mh.checkpoint.Salvage,
    mh.random.streams,
    config.describe,
    config.get,
    config.refresh,
    config.resolve,
    config.to_dict,
]
ERRORS = [getattr(errors, name) for name in errors.__all__]


def own_members(cls):
    """The public methods and properties that a class itself defines."""
    # Compiled classes have them in another order each time.
    own = {name: value for name, value in sorted(vars(cls).items()) if not name.startswith("_")}
    return {name: value for name, value in own.items() if callable(value) or inspect.isdatadescriptor(value)}


MEMBERS = {f"{cls.__name__}.{name}": member for cls in CLASSES for name, member in own_members(cls).items()}


# Signatures


def names_and_kinds(function):
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "/",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "",
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.KEYWORD_ONLY: "=",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return [kinds[p.kind] + p.name for p in inspect.signature(function).parameters.values()]


WHERE = ["=scheduler", "=num_workers", "=chunksize", "=seed"]
FAULTS = ["=on_error", "=retries", "=retry_on", "=retry_delay", "=timeout"]
KEYWORDS = [*WHERE, *FAULTS, "=relay", "=checkpoint", "=resources", "=progress"]


@pytest.mark.parametrize(
    "function, expected",
    [
        (mh.delayed, ["obj", "name", "pure", "nout", "traverse", "resources"]),
        (mh.compute, ["*args", "=traverse", "=optimize_graph", *KEYWORDS]),
        (mh.persist, ["*args", "=traverse", "=optimize_graph", *KEYWORDS]),
        (mh.map, ["/function", "*iterables", *KEYWORDS]),
        (mh.stream, ["/function", "*iterables", "=ordered", "=buffersize", *KEYWORDS]),
        (mh.submit, ["/function", "*args", "=seed", "**kwargs"]),
        (mh.cpu_count, []),
        (mh.shutdown, []),
        (config.set, ["mapping", "**keywords"]),
        (config.get, ["key", "default"]),
    ],
)
def test_a_signature(function, expected):
    assert names_and_kinds(function) == expected


def test_a_future_has_the_signatures_of_concurrent_futures():
    for name, method in own_members(mh.Future).items():
        base = getattr(concurrent.futures.Future, name)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(base).parameters), name


def test_the_names_of_the_errors():
    for error in ERRORS:
        assert getattr(mh, error.__name__) is error
        assert issubclass(error, (mh.Error, Warning)) or error is mh.RemoteTraceback
    assert issubclass(mh.CheckpointError, OSError)
    assert issubclass(mh.ConfigError, ValueError)
    assert issubclass(mh.PicklingError, pickle.PicklingError)


def test_everything_public_is_reached_from_the_package():
    program = "from manyhands import *; print(sorted(n for n in dir() if not n.startswith('_')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(sorted(mh.__all__))


def test_the_version_is_that_of_the_package():
    manifest = (Path(__file__).parents[1] / "Cargo.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"$', manifest, re.MULTILINE)
    assert mh.__version__ == version


def test_modules_and_functions_of_one_name_do_not_hide_each_other():
    importlib.import_module("manyhands.delayed")
    assert mh.delayed is importlib.import_module("manyhands.delayed").delayed
    assert callable(mh.delayed)
    assert mh.config is config


# Documentation


@pytest.mark.parametrize("name", MEMBERS)
def test_a_public_member_is_documented_with_an_example(name):
    doc = inspect.getdoc(MEMBERS[name]) or ""
    assert doc.strip(), f"{name} has no docstring"
    assert ">>> " in doc, f"the docstring of {name} has no example"


@pytest.mark.parametrize("documented", [*FUNCTIONS, *CLASSES, *ERRORS], ids=lambda obj: obj.__name__)
def test_a_public_object_is_documented_with_an_example(documented):
    assert ">>> " in (inspect.getdoc(documented) or "")


NATIVE = {
    "Delayed": mh.Delayed,
    "MRG32k3a": mh.random.MRG32k3a,
    "cpu_count": mh.cpu_count,
    **{name: member for name, member in MEMBERS.items() if name.startswith(("Delayed.", "MRG32k3a."))},
}


@pytest.mark.parametrize("name", NATIVE)
def test_the_examples_of_compiled_objects_run(name):
    """Those of Python modules are found and run without help."""
    text = inspect.getdoc(NATIVE[name])
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    output = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append)
    assert output == []


def test_every_module_has_a_docstring():
    names = ["manyhands", *(f"manyhands.{module.name}" for module in pkgutil.iter_modules(mh.__path__))]
    for name in names:
        assert (importlib.import_module(name).__doc__ or "").strip(), f"{name} has no docstring"


# Types


def test_the_package_says_that_it_is_typed():
    folder = Path(mh.__file__).parent
    assert (folder / "py.typed").is_file()
    assert (folder / "_native.pyi").is_file()


def test_every_public_function_is_annotated():
    for function in [*FUNCTIONS, *MEMBERS.values()]:
        if not inspect.isfunction(function):
            continue  # compiled, or a property: the stub has their types, and is checked against them
        signature = inspect.signature(function)
        assert signature.return_annotation is not signature.empty, function
        unannotated = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
        assert unannotated == [], function


TYPED_PROGRAM = """
from collections.abc import Iterator
from typing import Any, assert_type
import manyhands as mh

def name(x: int) -> str:
    return str(x)

assert_type(mh.map(name, [1]), list[str])
assert_type(mh.stream(name, [1]), Iterator[str])
future = mh.submit(name, 1)
assert_type(future, mh.Future[str])
assert_type(future.result(), str)
assert_type(mh.delayed(name)(1), mh.Delayed)
assert_type(mh.delayed(name)(1) + 1, mh.Delayed)
assert_type(mh.compute(1), tuple[Any, ...])
assert_type(mh.cpu_count(), int)

@mh.delayed(pure=True)
def decorated(x: int) -> int:
    return x

assert_type(decorated(1), mh.Delayed)

async def wait() -> str:
    return await mh.submit(name, 1)
"""


def test_a_type_checker_knows_the_results(tmp_path):
    pytest.importorskip("mypy", reason="the type checker is no part of the environment for older Pythons")
    program = tmp_path / "program.py"
    program.write_text(TYPED_PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", str(program)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# Small promises


def test_the_repr_of_a_delayed_is_its_key():
    task = mh.delayed(abs)(-1)
    assert repr(task) == f"Delayed({task.key!r})"
    assert task.key.startswith("abs-")
    assert len(task.key) == len("abs-") + 36


def test_the_number_of_cpus_is_at_least_one():
    assert isinstance(mh.cpu_count(), int)
    assert mh.cpu_count() >= 1


def test_shutdown_may_come_at_any_time():
    for _ in range(3):
        mh.shutdown()
        mh.shutdown()
        assert mh.map(abs, [-1], scheduler="threads") == [1]
        assert mh.map(abs, [-1], scheduler="processes", num_workers=1) == [1]
    mh.shutdown()


def test_shutdown_ends_what_is_under_way(tmp_path):
    import time

    with mh.config.set(num_workers=1, scheduler="processes"):
        future = mh.submit(time.sleep, 60)
        waiting = mh.submit((tmp_path / "ran").touch)
        mh.shutdown()
        for cancelled in (future, waiting):
            with pytest.raises(concurrent.futures.CancelledError):
                cancelled.result(timeout=60)
            assert cancelled.cancelled()
        assert mh.submit(abs, -1).result() == 1
    assert not (tmp_path / "ran").exists()


def test_a_dask_program_finds_its_names():
    program = "import manyhands as dask; from manyhands import delayed, compute, persist; dask.config.set; dask.Delayed"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_errors_survive_a_task(scheduler):
    """A task that uses manyhands itself may fail with one of its errors."""

    def fail(_):
        raise mh.WorkerDied("fit(1)", key="k", worker_pid=3, signal=9, output="last words")

    with pytest.raises(mh.WorkerDied) as caught:
        mh.map(fail, [0], scheduler=scheduler, num_workers=1)
    assert (caught.value.task, caught.value.signal, caught.value.output) == ("fit(1)", 9, "last words")

    def misconfigure(_):
        mh.config.set(scheduler="moon")

    with pytest.raises(mh.ConfigError, match="moon"):
        mh.map(misconfigure, [0], scheduler=scheduler, num_workers=1)
