"""Random numbers of tasks: the same wherever they run."""

from __future__ import annotations

import ast
import functools
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

import manyhands as mh

SEED = 20240229


def drawn(rng):
    return rng.random(), int(rng.integers(10**6)), rng.normal()


def expected(n, seed=SEED):
    """What tasks draw that are given this seed, by NumPy alone."""
    return [drawn(np.random.default_rng(child)) for child in np.random.SeedSequence(seed).spawn(n)]


def states():
    return random.getstate(), repr(np.random.get_state(legacy=False))


def from_argument(x, rng):
    return drawn(rng)


def from_global_states(x):
    return random.random(), np.random.random(), random.gauss(0, 1), np.random.normal()


def globally_expected(n, seed=SEED):
    """What `from_global_states` returns, as the documentation says the states are set."""
    results = []
    for child in np.random.SeedSequence(seed).spawn(n):
        words = child.generate_state(10)
        numbers = np.random.RandomState(words[:4])
        others = random.Random(sum(int(word) << 32 * i for i, word in enumerate(words[4:8])))
        results.append((others.random(), numbers.random(), others.gauss(0, 1), numbers.normal()))
    return results


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_task_i_of_a_map_has_numpys_stream_i(chunksize):
    assert mh.map(from_argument, range(20), seed=SEED, chunksize=chunksize) == expected(20)


def test_items_of_every_kind_leave_the_streams_as_they_are():
    for items in (["a"] * 5, [[1], [2], [3], [4], [5]], (x for x in range(5)), [np.zeros(20_000)] * 5):
        assert mh.map(from_argument, items, seed=SEED) == expected(5)
    assert mh.map(lambda x, y, rng: drawn(rng), range(5), range(9), seed=SEED) == expected(5)


def test_a_stream_has_them_too():
    assert list(mh.stream(from_argument, range(50), seed=SEED)) == expected(50)
    assert list(mh.stream(from_argument, [[x] for x in range(5)], seed=SEED)) == expected(5)


def test_a_submitted_call_has_the_first():
    assert mh.submit(from_argument, 1, seed=SEED).result() == expected(1)[0]
    assert mh.submit(from_argument, x=[1], seed=SEED).result() == expected(1)[0]


def test_tasks_of_a_graph_have_the_streams_of_their_order_of_creation():
    draw = mh.delayed(from_argument)
    first = draw(0)
    second = draw([first])
    third = draw(second)
    assert mh.compute(third, [first], {"b": second}, seed=SEED) == (
        expected(3)[2],
        [expected(3)[0]],
        {"b": expected(3)[1]},
    )
    assert third.compute(seed=SEED) == expected(3)[2]
    # Of those alone that are computed.
    assert mh.compute(draw(1), seed=SEED) == (expected(1)[0],)
    (kept,) = mh.persist(draw(1), seed=SEED)
    assert kept.compute() == expected(1)[0]


def test_functions_that_come_as_inputs_and_methods_have_streams(where):
    class Model:
        def fit(self, x, rng):
            return drawn(rng)

    def make():
        return from_argument

    made = mh.delayed(make)()
    assert made(1).compute(seed=SEED) == expected(2)[1]
    method = mh.delayed(Model()).fit  # a task of its own only where it is not called
    assert method(1).compute(seed=SEED) == expected(1)[0]
    assert mh.map(Model().fit, [1, 2], seed=SEED) == expected(2)


def check_that_a_seed_leaves_the_global_states_alone():
    """As threads share them: what tasks draw is the program's own, in whatever order, and that is reported."""
    random.seed(3)
    expected = [random.random() for _ in range(9)]
    random.seed(3)
    with pytest.warns(mh.UndeclaredRandomWarning, match="which tasks in threads share"):
        drawn = mh.map(lambda _: random.random(), range(9), seed=SEED)
    assert sorted(drawn) == sorted(expected)


def test_the_global_states_are_set_from_the_stream(where):
    if where.scheduler == "threads":
        check_that_a_seed_leaves_the_global_states_alone()
        return
    # NumPy's is set from words other than those that Python's is set from: they are the same generator.
    assert mh.map(from_global_states, range(9), seed=SEED) == globally_expected(9)
    tasks = [mh.delayed(from_global_states)(x) for x in range(9)]
    assert mh.compute(tasks, seed=SEED) == (globally_expected(9),)
    assert mh.submit(from_global_states, 1, seed=SEED).result() == globally_expected(1)[0]


def test_a_module_that_the_task_is_the_first_to_import_is_set_too(where):
    if where.scheduler == "threads":
        check_that_a_seed_leaves_the_global_states_alone()
        return

    program = f"""
import manyhands as mh

def draw(x):
    import numpy.random
    return numpy.random.random()

def nest(x):
    import random
    return random.random(), mh.map(draw, range(2)), __import__("numpy").random.random(), random.random()

print([mh.map(draw, range(5), seed={SEED}), mh.map(nest, range(3), seed={SEED})])
"""
    settings = {"MANYHANDS_SCHEDULER": where.scheduler, "MANYHANDS_NUM_WORKERS": str(where.num_workers)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    drawn_there, nested_there = ast.literal_eval(ran.stdout)
    assert drawn_there == [values[1] for values in globally_expected(5)]

    # Here NumPy is imported.
    def nest(x):
        return random.random(), mh.map(from_global_states, range(2)), np.random.random(), random.random()

    nested_here = mh.map(nest, range(3), seed=SEED)
    assert nested_there == [(a, [values[1] for values in inner], b, c) for a, inner, b, c in nested_here]


def test_the_callers_own_states_are_never_touched(where):
    # In threads, what draws from the global states draws from the caller's.
    own = from_argument if where.scheduler == "threads" else from_global_states
    random.gauss(0, 1)
    np.random.normal()
    before = states()
    mh.map(own, range(3), seed=SEED)
    mh.compute([mh.delayed(own)(x) for x in range(3)], seed=SEED)
    list(mh.stream(own, range(3), seed=SEED))
    mh.submit(own, 1, seed=SEED).result()
    with pytest.raises(ZeroDivisionError):
        mh.map(lambda x, rng: (own(x, rng) if own is from_argument else own(x)) and 1 / x, [0], seed=SEED)
    assert states() == before


def test_items_are_drawn_from_the_callers_own_states(where):
    # In threads, tasks that draw from the global states as well would come in between.
    also_drawn = (lambda: None) if where.scheduler == "threads" else random.random
    random.seed(1)
    items = (random.random() for _ in range(5))
    numbers = random.Random(1)
    assert mh.map(lambda x: (x, also_drawn())[0], items, seed=SEED) == [numbers.random() for _ in range(5)]


def test_tasks_without_a_seed_do_not_go_on_with_the_states_of_those_with_one(where):
    """Every worker has run seeded tasks, the same each time; what it draws after them is not the same each time."""

    def unseeded_after_seeded():
        mh.map(lambda x: (time.sleep(0.001), random.random(), np.random.random()), range(12), seed=SEED)
        return mh.map(lambda x: (random.random(), np.random.random()), range(8))

    runs = [unseeded_after_seeded() for _ in range(3)]
    drawn_from_random = [pair[0] for run in runs for pair in run]
    drawn_from_numpy = [pair[1] for run in runs for pair in run]
    assert len(set(drawn_from_random)) == 24
    assert len(set(drawn_from_numpy)) == 24


class Drawing:
    """What draws a number when it is unpickled."""

    def __setstate__(self, state):
        self.number = random.random()

    def __getstate__(self):
        return {"there": "is state"}


def test_unpickling_without_a_seed_draws_from_the_states_of_the_workers_own(where):
    if not where.is_elsewhere:
        drawing = Drawing()
        # Nothing is unpickled: the task has the very object, which has drawn nothing.
        assert mh.map(lambda given: (given is drawing, vars(given)), [drawing], seed=SEED) == [(True, {})]
        return
    numbers = []
    for _ in range(3):
        mh.map(lambda x: random.random(), range(8), seed=SEED)
        numbers += mh.stream(lambda drawing: drawing.number, [Drawing() for _ in range(4)])
    assert len(set(numbers)) == 12


# Calls of tasks


def nested(x, rng):
    first = mh.map(from_argument, range(3))
    own = drawn(rng)
    second = mh.compute([mh.delayed(from_argument)(y) for y in range(3)])[0]
    third = mh.submit(from_argument, 1).result()
    spawned = drawn(rng.spawn(1)[0])
    return first, own, second, third, spawned


def test_calls_of_a_task_have_streams_below_its_own():
    results = mh.map(nested, range(3), seed=SEED)
    numbers = set()
    for result, child in zip(results, np.random.SeedSequence(SEED).spawn(3), strict=True):
        first, second, third, spawned = child.spawn(4)
        assert result == (
            [drawn(np.random.default_rng(seeds)) for seeds in first.spawn(3)],
            drawn(np.random.default_rng(child)),
            [drawn(np.random.default_rng(seeds)) for seeds in second.spawn(3)],
            drawn(np.random.default_rng(third.spawn(1)[0])),
            drawn(np.random.default_rng(spawned)),
        )
        numbers |= {*result[0], result[1], *result[2], result[3], result[4]}
    assert len(numbers) == 3 * 9


def test_calls_of_a_task_that_has_no_argument_for_it_have_the_same():
    results = mh.map(lambda x: mh.map(from_argument, range(2)), range(2), seed=SEED)
    children = [child.spawn(1)[0].spawn(2) for child in np.random.SeedSequence(SEED).spawn(2)]
    assert results == [[drawn(np.random.default_rng(seeds)) for seeds in row] for row in children]


def test_a_seed_of_its_own_wins_in_a_task():
    assert mh.map(lambda x: mh.map(from_argument, range(2), seed=3), range(2), seed=SEED) == [expected(2, 3)] * 2


def test_the_task_goes_on_where_it_was_after_a_call_of_its_own(where):
    if where.scheduler == "threads":
        # The global states are not a task's there; its generator is.
        def with_a_call(x, rng):
            before = rng.random()
            mh.map(from_argument, range(2))
            return before, rng.normal()

        assert mh.map(with_a_call, range(3), seed=SEED) == mh.map(
            lambda x, rng: (rng.random(), rng.normal()), range(3), seed=SEED
        )
        return

    def around(x):
        before = random.random(), np.random.random()
        mh.map(from_global_states, range(2))
        return (before[0], before[1], random.gauss(0, 1), np.random.normal())

    assert mh.map(around, range(3), seed=SEED) == globally_expected(3)


# Who has which argument


def test_an_argument_that_the_caller_gives_is_the_callers():
    assert mh.map(lambda x, rng: rng, [1, 2], ["a", "b"], seed=SEED) == ["a", "b"]
    assert mh.map(lambda rng: rng, [1, 2], seed=SEED) == [1, 2]
    assert mh.delayed(from_argument)(1, rng=np.random.default_rng(5)).compute(seed=SEED) == drawn(
        np.random.default_rng(5)
    )


def test_a_parameter_with_a_default_receives_one_where_there_is_a_seed():
    def draw(x, *, rng=None):
        return None if rng is None else drawn(rng)

    assert mh.map(draw, range(2)) == [None, None]
    assert mh.map(draw, range(2), seed=SEED) == expected(2)


def test_decorated_functions_and_partial_ones_receive_one():
    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Callable:
        def __call__(self, x, rng):
            return drawn(rng)

    for function in (
        decorated(lambda x, rng: drawn(rng)),
        functools.partial(lambda y, x, rng: drawn(rng), 0),
        functools.partial(lambda x, y, rng: drawn(rng), y=0),
        Callable(),
    ):
        assert mh.map(function, range(2), seed=SEED) == expected(2)
    given = functools.partial(lambda x, rng: rng, rng=5)
    assert mh.map(given, range(2), seed=SEED) == [5, 5]


def test_a_call_that_forgets_the_seed_is_told_so():
    with pytest.raises(TypeError, match="rng") as caught:
        mh.map(from_argument, range(3))
    if sys.version_info >= (3, 11):
        assert "seed=1" in "".join(caught.value.__notes__)


def test_a_default_of_its_own_stays():
    """Only a parameter that is open, or has None, is one for the engine."""
    assert mh.map(lambda x, rng=(0, 1): rng, range(3), seed=SEED) == [(0, 1)] * 3
    assert mh.map(lambda x, *, rng="mine": rng, range(3), seed=SEED) == ["mine"] * 3
    assert mh.map(lambda x, *, rng=None: drawn(rng), range(3), seed=SEED) == expected(3)


def test_looking_for_the_argument_runs_none_of_the_users_code():
    class Model:
        n_asked = 0

        @property
        def fit(self):
            Model.n_asked += 1
            return lambda: Model.n_asked

    assert mh.delayed(Model)().fit().compute(seed=SEED) == 1


def test_a_seed_can_be_what_numpy_takes():
    for seed in (0, 2**100, [1, 2**40], np.int64(3), np.array([1, 2])):
        assert mh.map(from_argument, range(3), seed=seed) == expected(3, seed)
    seeds = np.random.SeedSequence(3, spawn_key=(4, 2**33))
    seeds.spawn(2)
    assert mh.map(from_argument, range(2), seed=seeds) == mh.map(from_argument, range(2), seed=seeds)
    assert mh.map(from_argument, range(2), seed=seeds) == [drawn(np.random.default_rng(s)) for s in seeds.spawn(2)]


def test_errors_are_told_as_without_a_seed():
    with pytest.raises(ZeroDivisionError) as caught:
        mh.map(lambda x, rng: 1 / x, [1, 2, 0], seed=SEED)
    if sys.version_info >= (3, 11):
        (note,) = caught.value.__notes__
        assert "item 2" in note
    with pytest.raises(ZeroDivisionError):
        mh.delayed(lambda rng: 1 / 0)().compute(seed=SEED)
