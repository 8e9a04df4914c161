"""Programs as people write them for Dask's delayed interface: with the import line changed, they run here.

Each program is a function of the module under the name `dask`, so that the same text can be run with another one.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import random
import subprocess
import sys
import textwrap

import pytest

import manyhands as mh

PROGRAMS = {}


def program(expected):
    """Register a program with the value that plain Python gives."""

    def register(function):
        PROGRAMS[function.__name__] = (function, expected)
        return function

    return register


def inc(x):
    return x + 1


def double(x):
    return 2 * x


def add(x, y):
    return x + y


@program(expected=sum((x + 1) + 2 * x for x in range(5)))
def loop_over_inputs(dask):
    output = []
    for x in range(5):
        a = dask.delayed(inc)(x)
        b = dask.delayed(double)(x)
        c = dask.delayed(add)(a, b)
        output.append(c)
    total = dask.delayed(sum)(output)
    return total.compute()


@program(expected=35)
def decorators(dask):
    @dask.delayed
    def increment(x):
        return x + 1

    @dask.delayed()
    def twice(x):
        return 2 * x

    @dask.delayed(pure=True)
    def plus(x, y):
        return x + y

    return dask.delayed(sum)([plus(increment(x), twice(x)) for x in range(5)]).compute()


@program(expected=([1, 4, 9], {"total": 14, "parts": [1, 4]}, (14, "as it is"), 3))
def several_results_at_once(dask):
    squares = [dask.delayed(pow)(i, 2) for i in (1, 2, 3)]
    total = dask.delayed(sum)(squares)
    return dask.compute(squares, {"total": total, "parts": squares[:2]}, (total, "as it is"), 3)


@program(expected=[10, 45, 90])
def load_clean_analyse(dask):
    def load(name):
        return [int(digit) for digit in name]

    def clean(rows):
        return [row for row in rows if row]

    def analyse(parts, weight=1):
        return weight * sum(sum(part) for part in parts)

    groups = [["1020", "0304"], ["102030", "405060", "789000"], ["1234", "9876", "5", "0"]]
    results = []
    for group, weight in zip(groups, (1, 1, 2)):
        cleaned = [dask.delayed(clean)(dask.delayed(load)(name)) for name in group]
        results.append(dask.delayed(analyse)(cleaned, weight=weight))
    return list(dask.compute(*results, scheduler="threads"))


@program(expected=sum(range(1, 65)))
def tree_reduction(dask):
    level = [dask.delayed(inc)(i) for i in range(64)]
    while len(level) > 1:
        level = [dask.delayed(add)(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0].compute()


@program(expected=(["LIGHT", "WORK"], 2, "light work", "l"))
def methods_of_delayed_data(dask):
    words = dask.delayed(["light", "work"])
    text = dask.delayed(" ".join)(words)
    return dask.compute(text.upper().split(" "), dask.delayed(len)(words), text, words[0][0])


@program(expected=(3, 2, 5, [0, 1, 2]))
def several_outputs(dask):
    @dask.delayed(nout=2)
    def quotient_and_remainder(a, b):
        return divmod(a, b)

    quotient, remainder = quotient_and_remainder(17, 5)
    both = quotient_and_remainder(17, 5)
    parts = list(dask.delayed(list, nout=3)(range(3)))
    return dask.compute(quotient, remainder, both[0] + both[1], parts)


@program(expected=(True, False, True))
def keys_of_pure_and_impure_calls(dask):
    pure = dask.delayed(operator.add, pure=True)
    impure = dask.delayed(operator.add)
    named = impure(1, 2, dask_key_name="three")
    return pure(1, 2).key == pure(1, 2).key, impure(1, 2).key == impure(1, 2).key, named.key == "three"


@program(expected=(8, 1))
def impure_calls_all_run(dask):
    def draw():
        return random.SystemRandom().random()

    impure = dask.compute(*[dask.delayed(draw)() for _ in range(8)])
    pure = dask.compute(*[dask.delayed(draw, pure=True)() for _ in range(8)])
    return len(set(impure)), len(set(pure))


@program(expected=(-7, 49, 3.5, 1, True, [7, 8], 28, 6))
def operators(dask):
    seven = dask.delayed(operator.add)(3, 4)
    some = [-seven, seven**2, seven / 2, 22 // seven % 2, seven > 6, [seven, 1 + seven], seven << 2, seven & 14]
    return dask.compute(*some)


@program(expected=(12, 20))
def a_class_and_its_objects(dask):
    class Model:
        def __init__(self, slope):
            self.slope = slope

        def fit(self, data):
            return Model(self.slope * len(data))

        def predict(self, x):
            return self.slope * x

    fitted = dask.delayed(Model)(2).fit([1, 2, 3])
    other = dask.delayed(Model(5)).predict(4)
    return dask.compute(fitted.predict(2), other)


@dataclasses.dataclass
class Settings:
    rate: object
    tags: list


@program(expected=(1.0, ["a", 2], 3))
def delayed_inside_of_collections(dask):
    def use(settings, window, *, options):
        return float(settings.rate), settings.tags, window.stop + options["more"]["offset"]

    one, two = dask.delayed(inc)(0), dask.delayed(inc)(1)
    used = dask.delayed(use)(Settings(one, ["a", two]), slice(0, two), options={"more": {"offset": one}})
    return used.compute()


@program(expected=(15, 15, 120))
def persist_and_go_on(dask):
    parts = [dask.delayed(inc)(i) for i in range(5)]
    (kept,) = dask.persist(parts)
    total = dask.delayed(sum)(kept)
    (single,) = dask.persist(dask.delayed(sum)(parts))
    return dask.compute(total, single, dask.delayed(math.prod)(parts))


@program(expected=[("synchronous", 1), ("threads", 1), ("synchronous", 1)])
def schedulers_by_configuration(dask):
    results = []
    with dask.config.set(scheduler="synchronous"):
        results.append((dask.config.get("scheduler"), dask.delayed(inc)(0).compute()))
        with dask.config.set(scheduler="threads", num_workers=2):
            results.append((dask.config.get("scheduler"), dask.delayed(inc)(0).compute()))
        results.append((dask.config.get("scheduler"), dask.delayed(inc)(0).compute()))
    return results


@program(expected=[3, 3, 3, 3, 3])
def schedulers_by_keyword(dask):
    three = dask.delayed(add)(1, 2)
    names = ("sync", "synchronous", "single-threaded", "threads")
    return [three.compute(scheduler=name) for name in names] + [three.compute(optimize_graph=False)]


@program(expected=(True, 3, {"first", "second", "third"}))
def the_graph(dask):
    first = dask.delayed(inc)(1, dask_key_name="first")
    second = dask.delayed(inc)(first, dask_key_name="second")
    third = dask.delayed(add)(first, second, dask_key_name="third")
    graph = third.dask
    return third.key in graph, len(graph), set(graph)


@program(expected=[[0], [0, 1, 1], [0, 1, 1, 2, 4]])
def graphs_of_different_depth(dask):
    def expand(values, n):
        return [*values, n, n * n]

    results = []
    for depth in range(3):
        values = dask.delayed([0])
        for n in range(depth):
            values = dask.delayed(expand)(values, n + 1)
        results.append(values)
    return dask.compute(results)[0]


@program(expected=("ValueError", "bad input: 3"))
def an_error_is_raised_as_itself(dask):
    def check(x):
        if x == 3:
            raise ValueError(f"bad input: {x}")
        return x

    try:
        dask.compute([dask.delayed(check)(x) for x in range(6)])
    except ValueError as error:
        return type(error).__name__, str(error)


@program(expected=["delayed is no sequence", "no truth", "immutable"])
def what_delayed_refuses(dask):
    value = dask.delayed(inc)(1)
    refused = []
    try:
        list(value)
    except TypeError:
        refused.append("delayed is no sequence")
    try:
        bool(value)
    except TypeError:
        refused.append("no truth")
    try:
        value[0] = 1
    except TypeError:
        refused.append("immutable")
    return refused


@program(expected=(499500.0, 333))
def arrays(dask):
    import numpy as np

    blocks = [dask.delayed(np.arange)(start, start + 100.0) for start in range(0, 1000, 100)]
    array = dask.delayed(np.concatenate)(blocks)
    return tuple(float(x) for x in dask.compute(array.sum(), (array[array % 3 == 1]).shape[0]))


@program(expected=(6, [1, 2, 3]))
def not_looking_inside(dask):
    listed = dask.delayed([1, 2, 3], traverse=False)
    return dask.compute(dask.delayed(sum)(listed), listed)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_plain_python_gives(name, scheduler):
    run, expected = PROGRAMS[name]
    with mh.config.set(scheduler=scheduler, num_workers=2):
        assert run(mh) == expected


SCRIPT = """
import manyhands as dask
from manyhands import compute, delayed

def inc(x):
    return x + 1

@delayed
def add(x, y):
    return x + y

@dask.delayed(pure=True)
def total(values):
    return sum(values)

parts = [add(delayed(inc)(i), 10) for i in range(10)]
result = total(parts)
print(result.compute(), compute(result, parts[0]), dask.compute({"a": parts[1]}))
print(result.compute(scheduler="threads"), result.compute(scheduler="processes", num_workers=2))
with dask.config.set(scheduler="single-threaded"):
    print(result.compute(), total(parts).key == result.key)
(kept,) = dask.persist(result)
print(kept.compute(), type(kept).__name__.startswith("Delayed"), repr(result).startswith("Delayed('total-"))
"""


def test_a_script_with_its_import_line_changed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    env = {name: value for name, value in os.environ.items() if not name.startswith("MANYHANDS_")}
    ran = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "155 (155, 11) ({'a': 12},)",
        "155 155",
        "155 True",
        "155 True True",
    ]
