"""Any function: wherever it is defined, and whatever it looks like."""

from __future__ import annotations

import asyncio
import functools
import importlib
import operator
import sys
import types

import pytest

import manyhands as mh

FACTOR = 10


def square(x):
    return x * x


def with_global(x):
    return x * FACTOR


def doubling(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return wrapper


@doubling
def decorated(x):
    return x + 1


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def is_even(n):
    return n == 0 or is_odd(n - 1)


def is_odd(n):
    return n != 0 and is_even(n - 1)


class Model:
    scale = 3

    def __init__(self, offset):
        self.offset = offset

    def predict(self, x):
        return self.scale * x + self.offset

    def __call__(self, x):
        return self.predict(x) + 100

    @classmethod
    def scaled(cls, x):
        return cls.scale * x

    @staticmethod
    def plain(x):
        return x + 1

    class Inner:
        @staticmethod
        def deep(x):
            return x - 1


class Child(Model):
    scale = 5

    def predict(self, x):
        return super().predict(x) + 1


def every_way(function, *args):
    """The results of one call by each verb; they are equal, or this is where it shows."""
    columns = [[arg] for arg in args]
    results = [
        mh.delayed(function)(*args).compute(),
        mh.map(function, *columns)[0],
        next(iter(mh.stream(function, *columns))),
        mh.submit(function, *args).result(),
    ]
    assert all(result == results[0] for result in results)
    return results[0]


# Shapes of functions


@pytest.mark.parametrize(
    "function, args, result",
    [
        (square, (3,), 9),
        (abs, (-2,), 2),
        (str.upper, ("a",), "A"),
        ("a,b".split, (",",), ["a", "b"]),
        (operator.itemgetter(1), ([5, 6],), 6),
        (operator.methodcaller("upper"), ("a",), "A"),
        (functools.partial(pow, 2), (5,), 32),
        (functools.partial(functools.partial(pow), 2), (5,), 32),
        (functools.partial(Model(1).predict), (5,), 16),
        (decorated, (3,), 8),
        (fibonacci, (12,), 144),
        (is_even, (10,), True),
        (dict, ([("a", 1)],), {"a": 1}),
        (Model(7).predict, (2,), 13),
        (Child(7).predict, (2,), 18),
        (Model(7), (2,), 113),
        (Model.scaled, (2,), 6),
        (Child.scaled, (2,), 10),
        (Model.plain, (2,), 3),
        (Model.Inner.deep, (2,), 1),
        (lambda x: x - 1, (2,), 1),
    ],
)
def test_a_function_of_any_shape(function, args, result):
    assert every_way(function, *args) == result


def test_a_closure():
    offset = 5
    seen = []

    def add(x):
        seen.append(x)
        return x + offset

    assert every_way(add, 1) == 6


def test_closures_that_look_alike_keep_their_own_cells():
    functions = [lambda x, i=i: (x, i) for i in range(20)]
    closed = [(lambda i: lambda x: (x, -i))(i) for i in range(20)]
    assert mh.compute([mh.delayed(f)(0) for f in functions]) == ([(0, i) for i in range(20)],)
    assert mh.compute([mh.delayed(f)(0) for f in closed]) == ([(0, -i) for i in range(20)],)
    assert [mh.map(f, [1])[0] for f in closed] == [(1, -i) for i in range(20)]


def test_a_recursive_closure():
    def factorial(n):
        return 1 if n == 0 else n * factorial(n - 1)

    assert every_way(factorial, 20) == 2432902008176640000


def test_local_classes():
    class Local:
        def __init__(self, x):
            self.x = x

        def __eq__(self, other):
            return self.x == other.x

        def doubled(self):
            return Local(2 * self.x)

    assert every_way(Local, 3).x == 3
    assert every_way(Local.doubled, Local(4)).x == 8
    result = mh.delayed(Local(5)).doubled().compute()
    assert result.x == 10
    assert isinstance(result, Local)


def test_a_decorated_function():
    @mh.delayed
    def add(a, b=1):
        return a + b

    @mh.delayed(pure=True, nout=2)
    def both(x):
        return x, -x

    first, second = both(add(1, b=add(2)))
    assert mh.compute(first, second) == (4, -4)


def test_a_decorated_method():
    class Study:
        def __init__(self, n):
            self.n = n

        @mh.delayed
        def run(self, x):
            return self.n * x

    assert Study(3).run(4).compute() == 12


def test_a_function_that_uses_modules_imported_in_its_body():
    def use(x):
        import json

        return json.dumps([x])

    assert every_way(use, 1) == "[1]"


def test_a_function_from_exec():
    namespace = {}
    exec("HERE = 3\ndef f(x):\n    return x * HERE\n", namespace)
    assert every_way(namespace["f"], 2) == 6


def test_a_function_of_a_module_made_at_run_time():
    module = types.ModuleType("made_at_run_time")
    sys.modules[module.__name__] = module
    try:
        exec("BASE = 4\nclass Box:\n    pass\ndef f(x):\n    return x + BASE\n", module.__dict__)
        assert every_way(module.f, 1) == 5
        assert type(mh.map(lambda _: module.Box(), [0])[0]).__name__ == "Box"
    finally:
        del sys.modules[module.__name__]


def test_a_function_of_a_module_beside_the_script(tmp_path, monkeypatch):
    name = f"beside_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("from fractions import Fraction\ndef half(x):\n    return Fraction(x, 2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(name)
    try:
        assert every_way(module.half, 3) * 2 == 3
    finally:
        del sys.modules[name]


def test_a_delayed_function_is_data_too():
    chosen = mh.delayed(operator.itemgetter(0))([square, abs])
    assert chosen(-3).compute() == 9


def test_a_generator_function_returns_what_cannot_be_sent(where):
    def numbers(n):
        yield from range(n)

    if not where.is_elsewhere:
        assert list(mh.map(numbers, [3])[0]) == [0, 1, 2]
        return
    for run in (
        lambda: mh.map(numbers, [3]),
        lambda: mh.delayed(numbers)(3).compute(),
        lambda: list(mh.stream(numbers, [3])),
        lambda: mh.submit(numbers, 3).result(),
    ):
        with pytest.raises(mh.PicklingError, match="result of .*numbers.*generator"):
            run()


@pytest.mark.filterwarnings("ignore:coroutine")
def test_an_async_function_returns_what_cannot_be_sent(where):
    async def later(x):
        return x

    if where.is_elsewhere:
        with pytest.raises(mh.PicklingError, match="result of .*later.*coroutine"):
            mh.submit(later, 1).result()
    else:
        assert asyncio.run(mh.submit(later, 1).result()) == 1


def test_an_async_function_runs_inside_a_task():
    async def later(x):
        await asyncio.sleep(0)
        return x + 1

    assert every_way(lambda x: asyncio.run(later(x)), 1) == 2


@pytest.mark.parametrize("wrong", [None, 3, "abs", [abs]])
def test_what_cannot_be_called(wrong):
    for run in (mh.map, mh.stream):
        with pytest.raises(TypeError, match="needs a function to call"):
            run(wrong, [1])
    with pytest.raises(TypeError, match="needs a function to call"):
        mh.submit(wrong, 1)
    with pytest.raises(TypeError, match="not callable"):
        mh.delayed(wrong)(1).compute()


# Globals


def test_globals_travel_along():
    assert every_way(with_global, 2) == 2 * FACTOR


def main_like(code):
    """A namespace that is nobody's module, as a script or a notebook is to its workers."""
    namespace = {"__name__": "__main__", "mh": mh}
    exec(code, namespace)
    return namespace


TRICKY = """
from operator import neg
import math as mathematics
_private = 10
numbers = [1, 2, 3]

def sum(xs):  # hides the builtin
    return "mine"

class Scale:
    factor = _private

    @staticmethod
    def of(x):
        return x * Scale.factor

def shadowed(x, numbers):
    _private = 1
    return x + _private + len(numbers)

def in_a_branch(x):
    return x if x else nowhere

def in_a_comprehension(x):
    return [x * n for n in numbers]

def in_a_nested_function(x):
    def inner():
        return (lambda: x * _private)()
    return inner()

def by_another_name(x):
    return neg(x), mathematics.floor(x + 0.5)

def by_a_class(x):
    return Scale.of(x), Scale().factor

def hidden_builtin(x):
    return sum([x])

def default(x, y=_private):
    return x + y

def keywords(*args, **more):
    return args, more, _private

def assigns(x):
    global numbers
    numbers = [*numbers, x]
    return numbers
"""


def test_globals_in_every_place():
    space = main_like(TRICKY)
    for name, expected in {
        "shadowed": 5,
        "in_a_branch": 2,
        "in_a_comprehension": [2, 4, 6],
        "in_a_nested_function": 20,
        "by_another_name": (-2, 2),
        "by_a_class": (20, 10),
        "hidden_builtin": "mine",
        "default": 12,
        "keywords": ((2,), {}, 10),
    }.items():
        args = (2, "ab") if name == "shadowed" else (2,)
        assert every_way(space[name], *args) == expected, name


def test_a_global_that_is_not_there_is_the_tasks_own_error():
    space = main_like(TRICKY)
    with pytest.raises(NameError, match="nowhere"):
        mh.map(space["in_a_branch"], [1, 0])


def test_functions_that_come_as_arguments_bring_their_globals():
    space = main_like(TRICKY)
    assert every_way(lambda function, x: function(x), space["in_a_nested_function"], 2) == 20
    assert every_way(functools.partial(space["keywords"], 1, a=2), 3) == ((1, 3), {"a": 2}, 10)
    assert mh.submit(space["keywords"], 1, b=3).result() == ((1,), {"b": 3}, 10)


def test_what_a_task_assigns_to_a_global_stays_there(where):
    space = main_like(TRICKY)
    assert mh.submit(space["assigns"], 4).result() == [1, 2, 3, 4]
    assert space["numbers"] == ([1, 2, 3] if where.is_elsewhere else [1, 2, 3, 4])


def test_private_names_of_a_module_are_the_modules(tmp_path, monkeypatch):
    name = f"private_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "_hidden = 7\ndef _f(x):\n    return x + _hidden\ndef f(x):\n    return _f(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(name)
    try:
        assert every_way(module.f, 1) == 8
        assert every_way(module._f, 1) == 8
    finally:
        del sys.modules[name]


def test_a_changed_global_is_seen_by_the_next_run():
    space = main_like("level = 1\ndef f(x):\n    return x * level\ndef g(x):\n    return f(x) + 1\n")
    for level in (1, 2, 3):
        space["level"] = level
        assert every_way(space["f"], 10) == 10 * level
        assert every_way(space["g"], 10) == 10 * level + 1


def test_a_global_changed_in_place_is_seen_by_the_next_run():
    space = main_like("levels = [1]\ndef f(_):\n    return list(levels)\n")
    assert every_way(space["f"], 0) == [1]
    space["levels"].append(2)
    assert every_way(space["f"], 0) == [1, 2]


def test_a_function_that_is_redefined():
    space = main_like("def f(x):\n    return 'old'\ndef g(x):\n    return f(x)\n")
    assert every_way(space["g"], 0) == "old"
    exec("def f(x):\n    return 'new'\n", space)
    assert every_way(space["f"], 0) == "new"
    assert every_way(space["g"], 0) == "new"


def test_a_class_that_is_redefined():
    space = main_like("class C:\n    value = 'old'\ndef f(_):\n    return C().value\n")
    assert every_way(space["f"], 0) == "old"
    exec("class C:\n    value = 'new'\n", space)
    assert every_way(space["f"], 0) == "new"


def test_a_changed_closure_variable_is_seen_by_the_next_run():
    level = 1

    def f(x):
        return x * level

    assert every_way(f, 10) == 10
    level = 2
    assert every_way(f, 10) == 20


def test_changed_defaults_and_attributes_are_seen_by_the_next_run():
    space = main_like("def f(x, by=1):\n    return x * by + getattr(f, 'extra', 0)\n")
    f = space["f"]
    assert every_way(f, 10) == 10
    f.__defaults__ = (2,)
    assert every_way(f, 10) == 20
    f.extra = 1
    assert every_way(f, 10) == 21


def test_a_changed_object_behind_a_method_is_seen_by_the_next_run():
    model = Model(1)
    assert every_way(model.predict, 1) == 4
    model.offset = 2
    assert every_way(model.predict, 1) == 5


# Changes made by tasks


def test_an_argument_that_a_task_changes(where):
    def spoil(values):
        values.append("spoilt")
        return len(values)

    mine = [1]
    assert mh.map(spoil, [mine]) == [2]
    assert mh.submit(spoil, mine).result() == (2 if where.is_elsewhere else 3)
    # Across processes a task works on a copy; within one process it is the caller's own object, as in any call.
    assert mine == ([1] if where.is_elsewhere else [1, "spoilt", "spoilt"])


def test_tasks_of_one_run_share_nothing_through_their_arguments(where):
    def spoil(values):
        values.append("spoilt")
        return len(values)

    mine = [1]
    lengths = mh.map(spoil, [mine] * 5)
    if where.is_fork:
        # What a forked worker inherited is one object for all tasks that it runs, and its own.
        assert mine == [1]
        return
    assert sorted(lengths) == ([2] * 5 if where.is_processes else [2, 3, 4, 5, 6])


def test_an_input_that_a_task_changes_is_whole_for_the_others(where):
    def make():
        return [0]

    def spoil(values):
        values.append(1)
        return len(values)

    made = mh.delayed(make)()
    results = mh.compute([mh.delayed(spoil)(made) for _ in range(4)])[0]
    assert sorted(results) == ([2] * 4 if where.is_elsewhere else [2, 3, 4, 5])


def test_what_belongs_to_one_of_two_modules_of_one_name_travels(where):
    """The class of `where` is one of this folder's conftest.py; a worker may find another module of that name first."""
    assert mh.map(lambda item: where.num_workers + item, [0]) == [where.num_workers]
