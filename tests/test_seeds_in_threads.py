"""Seeded calls that several threads of a program make at once, each in its own thread.

The global states can be set for the tasks of one of them only. So what tasks draw from their `rng` is right in any
case; what they draw from the global states is right, or it is reported.
"""

from __future__ import annotations

import random
import sys
import threading
import types
import warnings

import numpy as np
import pytest
from scripts import PATIENCE_S

import manyhands as mh

SEED = 5


def at_once(*calls):
    """What each of these calls returns or raises, made in threads of their own."""
    outcomes = [None] * len(calls)

    def make(number):
        try:
            outcomes[number] = calls[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=make, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def reported(*calls):
    """The same, and the texts of the reports of draws."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcomes = at_once(*calls)
    return outcomes, [str(one.message) for one in caught if one.category is mh.UndeclaredRandomWarning]


def meeting(draw):
    """Two functions whose tasks run at the same time, in pairs, whoever comes first; both draw by this."""
    barrier = threading.Barrier(2, timeout=PATIENCE_S)

    def task(number):
        barrier.wait()
        drawn = draw()
        barrier.wait()
        return drawn

    def first(number):
        return task(number)

    def second(number):
        return task(number)

    return first, second


def by_map(function, n):
    return mh.map(function, range(n), seed=SEED, scheduler="synchronous")


def by_stream(function, n):
    return list(mh.stream(function, range(n), seed=SEED, scheduler="synchronous"))


def by_compute(function, n):
    return mh.compute([mh.delayed(function)(x) for x in range(n)], seed=SEED, scheduler="synchronous")[0]


def by_submit(function, n):
    with mh.config.set(scheduler="synchronous"):
        return [mh.submit(function, x, seed=SEED).result() for x in range(n)]


def below_a_plan(function, n):
    with mh.config.set(scheduler=("synchronous",)):
        return by_map(function, n)


@pytest.mark.parametrize("call", [by_map, by_stream, by_compute, by_submit, below_a_plan])
@pytest.mark.parametrize("draw", [random.random, np.random.random], ids=["random", "numpy"])
def test_draws_from_a_state_that_two_calls_share_are_reported(call, draw):
    first, second = meeting(draw)
    before = random.getstate(), repr(np.random.get_state(legacy=False))
    _, texts = reported(lambda: call(first, 3), lambda: call(second, 3))
    assert (random.getstate(), repr(np.random.get_state(legacy=False))) == before
    n_each = 3 if call is by_submit else 1  # calls of their own
    for name in ("first", "second"):
        own = [text for text in texts if name in text.split(" draws ")[0]]
        assert len(own) == n_each, texts
        assert "which seeded calls in several threads share" in own[0]


def test_the_right_numbers_or_a_report():
    """Short tasks, which come between each other now and then or never."""
    alone = by_map(lambda _: random.random(), 50)
    for _ in range(20):
        calls = [lambda: by_map(lambda _: (random.random(), sum(range(2000)))[0], 50)] * 3
        outcomes, texts = reported(*calls)
        wrong = [outcome for outcome in outcomes if outcome != alone]
        assert bool(texts) or not wrong


def test_it_is_noticed_although_states_are_set_and_put_back_meanwhile():
    """The task of one thread lasts while those of another come and go."""
    begun, entered, may_draw, has_drawn = (threading.Event() for _ in range(4))

    def short(number):
        if number == 0:
            begun.set()
            assert entered.wait(PATIENCE_S)
        if number == 3:
            may_draw.set()
            assert has_drawn.wait(PATIENCE_S)

    def long(_):
        entered.set()
        assert may_draw.wait(PATIENCE_S)
        drawn = random.random()
        has_drawn.set()
        return drawn

    def second():
        assert begun.wait(PATIENCE_S)
        return by_map(long, 1)

    outcomes, texts = reported(lambda: by_map(short, 6), second)
    assert outcomes[0] == [None] * 6
    assert "long" in "".join(texts)
    assert all("which seeded calls in several threads share" in text for text in texts)


def test_it_can_be_an_error_or_be_ignored():
    with mh.config.set(random_misuse="ignore"):
        outcomes, texts = reported(*(lambda one=one: by_map(one, 2) for one in meeting(random.random)))
        assert texts == []
        assert all(len(outcome) == 2 for outcome in outcomes)
    with mh.config.set(random_misuse="error"):
        outcomes, _ = reported(*(lambda one=one: by_map(one, 1) for one in meeting(random.random)))
        for outcome in outcomes:
            assert isinstance(outcome, mh.UndeclaredRandomError)
            assert "several threads" in str(outcome)


def test_what_draws_from_its_own_stream_is_right_and_not_reported():
    first, second = meeting(lambda: None)

    def run(function):
        return mh.map(lambda x, rng: (function(x), rng.random())[1], range(3), seed=SEED, scheduler="synchronous")

    outcomes, texts = reported(lambda: run(first), lambda: run(second))
    expected = [np.random.default_rng(child).random() for child in np.random.SeedSequence(SEED).spawn(3)]
    assert outcomes == [expected] * 2
    assert texts == []


def test_what_one_has_drawn_before_the_other_came_is_not_reported():
    begun, has_begun, has_ended = threading.Event(), threading.Event(), threading.Event()

    def first(_):
        drawn = random.random()
        begun.set()
        assert has_ended.wait(PATIENCE_S)
        return drawn

    def second():
        assert begun.wait(PATIENCE_S)
        by_map(lambda _: has_begun.set(), 1)
        has_ended.set()

    outcomes, texts = reported(lambda: by_map(first, 1), second)
    assert has_begun.is_set()
    assert outcomes[0] == by_map(lambda _: random.random(), 1)
    assert texts == []


def test_calls_of_tasks_in_threads_of_the_pool_are_reported_as_these_tasks():
    def nesting(_):
        return mh.map(lambda _: random.random(), range(2), seed=SEED)

    for scheduler in ("threads", ("threads", "synchronous")):
        _, texts = reported(lambda scheduler=scheduler: mh.map(nesting, range(4), scheduler=scheduler))
        assert len(texts) == 1
        assert "nesting" in texts[0]
        assert "which tasks in threads share" in texts[0]


def test_a_task_may_wait_for_a_call_that_another_thread_makes():
    """Nobody takes turns, or this would wait for ever."""

    def waits(_):
        return at_once(lambda: by_map(lambda x: x + 1, 3))

    assert by_map(waits, 2) == [[[1, 2, 3]]] * 2


def test_torchs_state_is_looked_at_too(monkeypatch):
    numbers, seeds = random.Random(1), [0]

    class State(tuple):
        def numpy(self):
            return repr(tuple(self)).encode()

    def manual_seed(seed):
        seeds[0] = seed
        numbers.seed(seed)

    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(is_initialized=lambda: False)
    torch.default_generator = types.SimpleNamespace(
        get_state=lambda: State(numbers.getstate()),
        set_state=lambda state: numbers.setstate(tuple(state)),
        manual_seed=manual_seed,
        initial_seed=lambda: seeds[0],
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    first, second = meeting(numbers.random)
    _, texts = reported(lambda: by_map(first, 2), lambda: by_map(second, 2))
    assert len(texts) == 2
    assert all("`torch`" in text for text in texts)
