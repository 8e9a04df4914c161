"""Use inside of tasks: serial in the worker by default, and never a deadlock."""

from __future__ import annotations

import functools
import os
import threading

import manyhands as mh


def place(*_args):
    return os.getpid(), threading.get_ident()


def square(x):
    return x * x


def inner_places(_):
    """Where this task runs, and where tasks run that it starts in every way."""
    places = {place()}
    places.update(mh.compute([mh.delayed(place)(i) for i in range(4)])[0])
    places.add(mh.delayed(place)().compute())
    places.update(mh.map(place, range(4)))
    places.update(mh.stream(place, range(4)))
    places.update(mh.stream(place, range(4), ordered=False))
    places.update(mh.submit(place).result() for _ in range(4))
    places.add(mh.delayed(place)().persist().compute())
    return places


def every_way(function, *args):
    columns = [[arg] for arg in args]
    return [
        mh.delayed(function)(*args).compute(),
        mh.map(function, *columns)[0],
        next(iter(mh.stream(function, *columns))),
        mh.submit(function, *args).result(),
    ]


def test_everything_inside_a_task_runs_where_the_task_does():
    for places in every_way(inner_places, None):
        assert len(places) == 1


def inner_values(n):
    lazy = mh.delayed(sum)([mh.delayed(square)(i) for i in range(n)])
    return (
        lazy.compute(),
        mh.map(square, range(n)),
        list(mh.stream(square, range(n))),
        mh.submit(square, n).result(),
    )


def test_values_inside_a_task_are_the_same():
    assert every_way(inner_values, 4) == [(14, [0, 1, 4, 9], [0, 1, 4, 9], 16)] * 4


def deep_places(depth):
    here = {place()}
    if depth:
        for places in mh.map(deep_places, [depth - 1] * 2):
            here |= places
        here |= mh.delayed(deep_places)(depth - 1).compute()
        here |= mh.submit(deep_places, depth - 1).result()
    return here


def test_three_levels_deep():
    for places in every_way(deep_places, 3):
        assert len(places) == 1


def test_many_tasks_that_nest():
    assert mh.map(lambda n: sum(mh.map(square, range(n))), range(30)) == [
        sum(i * i for i in range(n)) for n in range(30)
    ]


def test_settings_inside_a_task_do_not_undo_it():
    def configured(_):
        with mh.config.set(scheduler="threads", num_workers=2):
            return {place(), *mh.map(place, range(4)), *mh.compute(*[mh.delayed(place)() for _ in range(3)])}

    for places in every_way(configured, None):
        assert len(places) == 1


def test_an_error_inside_a_nested_run_names_both_tasks():
    def inner(x):
        return 1 / x

    def outer(x):
        return mh.map(inner, [1, x])

    for run in (
        lambda: mh.map(outer, [0]),
        lambda: mh.delayed(outer)(0).compute(),
        lambda: mh.submit(outer, 0).result(),
    ):
        try:
            run()
        except ZeroDivisionError as error:
            notes = "\n".join(error.__notes__)
            assert "inner(0), item 1" in notes
            assert "outer(0)" in notes
        else:
            raise AssertionError("no error")


def test_a_future_made_in_a_task_is_an_ordinary_one():
    def use(_):
        future = mh.submit(pow, 2, 5)
        failed = mh.submit(int, "x")
        return (
            future.done(),
            future.running(),
            future.cancel(),
            future.cancelled(),
            future.result(),
            type(failed.exception()).__name__,
        )

    assert every_way(use, None) == [(True, False, False, False, 32, "ValueError")] * 4


def test_a_delayed_can_be_made_and_computed_far_apart():
    task = mh.delayed(square)(mh.delayed(square)(2))
    assert mh.map(lambda t: t.compute(), [task]) == [16]
    assert mh.delayed(lambda t: t, traverse=False)(task).compute() == 16
    made = mh.map(lambda x: mh.delayed(square)(x), [3])[0]
    assert made.compute() == 9


# With a scheduler named inside the task


def explicit(scheduler, n_levels):
    """Nested runs that insist on a scheduler: they may take another place, and must end."""
    if n_levels == 0:
        return 1
    inner = functools.partial(explicit, scheduler)
    return (
        sum(mh.map(inner, [n_levels - 1] * 3, scheduler=scheduler, num_workers=2))
        + mh.compute(mh.delayed(inner)(n_levels - 1), scheduler=scheduler)[0]
    )


def test_an_explicit_synchronous_run_inside_a_task():
    assert every_way(explicit, "synchronous", 2) == [16] * 4


def test_explicit_threads_inside_a_task_do_not_deadlock():
    assert every_way(explicit, "threads", 2) == [16] * 4
    assert mh.map(functools.partial(explicit, "threads"), [1] * 6) == [4] * 6


def test_explicit_processes_inside_a_task():
    assert every_way(explicit, "processes", 1) == [4] * 4


def test_threads_started_by_a_task_can_compute(where):
    if where.scheduler == "threads":
        # They are not the task's own thread, so they take part as any other thread does, and need a free worker.
        mh.config.set(num_workers=where.num_workers + 1)

    def use(_):
        found = []
        thread = threading.Thread(target=lambda: found.append(mh.map(square, range(5))))
        thread.start()
        thread.join()
        return found[0]

    assert every_way(use, None) == [[0, 1, 4, 9, 16]] * 4
