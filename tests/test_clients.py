"""`manyhands.distributed` where it meets other things: Dask's keywords and settings, tasks, other clients."""

from __future__ import annotations

import gc
import inspect
import itertools
import os
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import dask.bag as db
import pytest
from scripts import PATIENCE_S, check, run, until

import manyhands as mh
import manyhands.dask
from manyhands.distributed import CancelledError, Client, get_client, wait, worker_client

KINDS = {"processes": True, "threads": False}


@pytest.fixture(params=KINDS)
def client(request):
    with Client(n_workers=2, processes=KINDS[request.param]) as client:
        yield client


def inc(x):
    return x + 1


def pause(path):
    """Run Python code until a file is there."""
    Path(f"{path}.begun").touch()
    deadline = time.monotonic() + PATIENCE_S
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return 1


def told(**kwargs):
    return kwargs


# Keywords

# Of Dask's `Client.submit` and `Client.map`, version 2026.8.
OF_SUBMIT = {
    "key", "workers", "resources", "retries", "priority", "fifo_timeout", "allow_other_workers", "actor", "actors",
    "pure",
}  # fmt: skip


@pytest.mark.parametrize(("verb", "of_dask"), [("submit", OF_SUBMIT), ("map", OF_SUBMIT | {"batch_size"})])
def test_a_client_takes_the_keywords_that_dasks_takes_and_no_others(verb, of_dask):
    parameters = inspect.signature(getattr(Client, verb)).parameters.values()
    assert {one.name for one in parameters if one.kind is one.KEYWORD_ONLY} == of_dask
    documented = getattr(Client, verb).__doc__
    assert [name for name in of_dask if name not in documented] == []


def test_all_other_keywords_are_the_functions(client):
    given = {"batch_size": 32, "n_workers": 3, "timeout": 1, "sync": True}
    assert client.submit(told, **given).result() == given
    del given["batch_size"]
    assert client.map(lambda _, **kwargs: kwargs, [1], batch_size=32, **given)[0].result() == given


def test_a_keyword_that_nobody_knows_is_refused(client):
    lazy = mh.delayed(inc)(1)
    for part in (lazy, dask.delayed(inc)(1), da.ones(3)):
        for verb in (client.compute, client.persist):
            with pytest.raises(TypeError, match=r"retires.*Accepted: .*retries"):
                verb(part, retires=2)
    with pytest.raises(TypeError, match="sync=False"):
        client.get({"x": (inc, 1)}, "x", sync=False)
    taken = {
        "workers": ["a"],
        "priority": 3,
        "allow_other_workers": True,
        "fifo_timeout": "1s",
        "optimize_graph": False,
    }
    assert client.compute(lazy, traverse=True, **taken).result() == 2
    assert client.compute(da.ones(3).sum(), **taken).result() == 3
    assert client.persist(lazy, **taken).compute() == 2
    with pytest.raises(TypeError, match="actors"):
        client.compute(lazy, actors=True)


def second_time(path):
    if not os.path.exists(path):
        Path(path).touch()
        raise OSError("not yet")
    return 5


@pytest.mark.parametrize("kind", ["delayed", "dask", "bag"])
def test_what_is_computed_is_tried_again(client, kind, tmp_path):
    def lazy(name):
        path = str(tmp_path / name)
        if kind == "bag":
            return db.from_sequence([path], npartitions=1).map(second_time).sum()
        return (mh.delayed if kind == "delayed" else dask.delayed)(second_time)(path)

    assert client.compute(lazy("compute"), retries=1, retry_delay=0).result() == 5
    assert client.persist(lazy("persist"), retries=1, retry_delay=0).compute() == 5
    assert isinstance(client.compute(lazy("no")).exception(), OSError)


def test_graphs_of_dask_have_the_keywords_of_graphs_of_ours(tmp_path):
    heard = []
    x = dask.delayed(second_time)(str(tmp_path / "one"))
    assert x.compute(scheduler=manyhands.dask.get, retries=1, retry_delay=0, progress=heard.append) == 5
    assert heard
    with mh.config.set(scheduler="processes"), pytest.raises(TimeoutError):
        dask.delayed(time.sleep)(600).compute(scheduler=manyhands.dask.get, timeout=0.2)
    draw = dask.delayed(lambda rng=None: rng.random())()
    assert draw.compute(scheduler=manyhands.dask.get, seed=1) == draw.compute(scheduler=manyhands.dask.get, seed=1)


# In tasks


def in_task(verb):
    client = get_client()
    if verb == "compute":
        return client.compute(mh.delayed(abs)(-1)).result()
    if verb == "compute of dask":
        return int(client.compute(da.ones(4, chunks=1).sum()).result()) - 3
    if verb == "persist":
        return client.persist(mh.delayed(abs)(-1)).compute()
    if verb == "map":
        return sum(client.gather(client.map(abs, [-1, 0])))
    if verb == "get":
        return client.get({"x": (abs, -1)}, "x")
    if verb == "run":
        return next(iter(client.run(abs, -1).values()))
    if verb == "retry":
        future = client.submit(divmod, 1, 0)
        client.retry(future)
        return int(future.status == "error")
    if verb == "another thread":
        found = []
        thread = threading.Thread(target=lambda: found.append(client.compute(mh.delayed(abs)(-1)).result()))
        thread.start()
        thread.join()
        return found[0]
    return client.submit(abs, client.submit(abs, -1)).result()


VERBS = [
    "compute", "compute of dask", "persist", "map", "submit", "get", "run", "retry", "another thread",
]  # fmt: skip


@pytest.mark.parametrize("processes", KINDS.values(), ids=KINDS)
def test_tasks_can_ask_for_more_when_all_workers_run_such_tasks(processes, tmp_path):
    source = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_clients import VERBS, in_task
        from manyhands.distributed import Client

        with Client(n_workers=2, processes={processes}) as client:
            for verb in VERBS:
                print(verb, client.gather([client.submit(in_task, verb) for _ in range(4)]))
    """
    check(run(tmp_path, source), "".join(f"{verb} [1, 1, 1, 1]\n" for verb in VERBS))


def test_a_task_that_needs_a_result_which_is_under_way_does_not_wait_for_its_own_worker(tmp_path):
    """The call that it submits would wait for a worker, and all of them may be busy with such tasks."""
    source = """
        import time
        from manyhands.distributed import Client

        with Client(n_workers=2, processes=False) as client:
            slow = client.submit(time.sleep, 0.5)
            ends = [client.submit(lambda: client.submit(str, slow).result()) for _ in range(4)]
            print(client.gather(ends))
    """
    check(run(tmp_path, source), "['None', 'None', 'None', 'None']\n")


def test_clients_of_one_task_take_each_others_futures(client):
    def inner():
        first, second = get_client(), get_client()
        futures = first.map(inc, range(3))
        with worker_client() as third:
            total = third.submit(sum, [*futures, second.submit(inc, 9)])
        return second.submit(inc, total).result(), first.gather([total, *futures])

    assert client.submit(inner).result() == (17, [16, 1, 2, 3])


def test_clients_take_each_others_futures_and_a_result_stays_for_those_who_need_it(tmp_path):
    with Client(n_workers=1, processes=False) as one, Client(n_workers=1, processes=True) as other:
        ready, late = one.submit(inc, 1), one.submit(pause, str(tmp_path / "go"))
        assert ready.result() == 2
        total = other.submit(divmod, ready, late)
        ready.release()
        (tmp_path / "go").touch()
        assert total.result() == (2, 0)
        failed = one.submit(divmod, 1, 0)
        assert isinstance(other.submit(inc, failed).exception(), ZeroDivisionError)
        # Whichever client is asked.
        never = other.submit(time.sleep, 3600)
        one.cancel(never)
        assert never.status == "cancelled"


# Dask's setting


def settled():
    return dask.config.get("scheduler", None)


@pytest.mark.parametrize("before", [None, "sync"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_dask_computes_here_while_any_client_lives_and_as_before_after_the_last(n, before):
    """Whatever the order in which they come and go."""
    steps = [(number, step) for number in range(n) for step in ("open", "close")]
    with dask.config.set({} if before is None else {"scheduler": before}):
        for order in itertools.permutations(steps):
            if any(order.index((number, "open")) > order.index((number, "close")) for number in range(n)):
                continue
            clients = {}
            for number, step in order:
                if step == "open":
                    clients[number] = Client(n_workers=1, processes=False)
                else:
                    clients.pop(number).close()
                assert settled() is (manyhands.dask.get if clients else before), order


def test_a_client_in_the_place_of_another():
    client = Client(n_workers=1, processes=False)
    client = Client(n_workers=1, processes=False)
    gc.collect()
    assert settled() is manyhands.dask.get
    client.close()
    assert settled() is None


def test_what_the_program_sets_meanwhile_stays():
    with dask.config.set({}):
        first = Client(n_workers=1, processes=False)
        with dask.config.set(scheduler="sync"):
            with Client(n_workers=1, processes=False):
                assert settled() is manyhands.dask.get
            assert settled() == "sync"
        assert settled() is manyhands.dask.get
        dask.config.set(scheduler="threads")
        first.close()
        assert settled() == "threads"
        dask.config.config.pop("scheduler")


# Ends


def end_by_cancel(client, future):
    client.cancel(future)


def end_by_its_own(client, future):
    future.cancel()


def end_by_closing(client, future):
    client.close()


@pytest.mark.parametrize("kind", ["delayed", "dask", "bag"])
@pytest.mark.parametrize("end", [end_by_cancel, end_by_its_own, end_by_closing])
@pytest.mark.parametrize("processes", KINDS.values(), ids=KINDS)
def test_what_compute_is_at_ends_when_nobody_wants_it(processes, end, kind, tmp_path):
    client = Client(n_workers=1, processes=processes)
    go = str(tmp_path / "go")
    lazy = {
        "delayed": lambda: mh.delayed(pause)(go),
        "dask": lambda: dask.delayed(pause)(go),
        "bag": lambda: db.from_sequence([go], npartitions=1).map(pause).sum(),
    }[kind]()
    future = client.compute(lazy)
    until((tmp_path / "go.begun").exists, "it has begun")
    end(client, future)
    assert future.status == "cancelled"
    with pytest.raises(CancelledError):
        future.result()
    # The only worker is free, though the file has never come.
    with Client(n_workers=1, processes=processes) as other:
        assert other.submit(inc, 1).result(timeout=PATIENCE_S) == 2
    assert not os.path.exists(go)
    client.close()


def test_what_is_waited_for_by_another_future_goes_on(client, tmp_path):
    go = str(tmp_path / "go")
    first, second = client.compute([mh.delayed(pause)(go), mh.delayed(inc)(1)])
    until((tmp_path / "go.begun").exists, "it has begun")
    first.cancel()
    Path(go).touch()
    assert second.result() == 2
    assert first.status == "cancelled"
    first.retry()
    assert first.result() == 1


def test_a_closed_client_computes_nothing(client):
    client.close()
    for verb in (client.compute, client.submit):
        with pytest.raises(RuntimeError, match="closed"):
            verb(mh.delayed(inc)(1))


def test_a_synchronous_client_computes_at_once():
    with mh.config.set(scheduler="synchronous"), Client() as client:
        here = threading.get_ident()
        future = client.compute(mh.delayed(threading.get_ident)())
        assert (future.status, future.result()) == ("finished", here)
        assert isinstance(client.compute(mh.delayed(divmod)(1, 0)).exception(), ZeroDivisionError)


# Once more


def test_a_retried_call_has_those_run_again_whose_failure_it_has_inherited(client, tmp_path):
    for depth in range(4):
        end = client.submit(second_time, str(tmp_path / f"chain {depth}"))
        chain = [end]
        for _ in range(depth):
            end = client.submit(inc, end)
            chain.append(end)
        wait(chain)
        assert {future.status for future in chain} == {"error"}
        client.retry(end)
        assert end.result() == 5 + depth
        assert client.gather(chain) == [5 + n for n in range(depth + 1)]


def test_a_retried_call_has_all_its_roots_run_again_each_once(client, tmp_path):
    # left  right   ready
    #    \  /   \    /
    #    both     \  /
    #        \    | |
    #           end
    left, right = (client.submit(second_time, str(tmp_path / name)) for name in ("left", "right"))
    ready = client.submit(inc, 1)
    both = client.submit(lambda left, right: left + right, left, right)
    end = client.submit(lambda *args: args, both, {"right": right, "ready": ready})
    wait([end, left, right])
    end.retry()
    assert end.result() == (10, {"right": 5, "ready": 2})


def test_a_call_that_was_cancelled_while_it_waited_waits_again(client, tmp_path):
    first, second = (client.submit(pause, str(tmp_path / name)) for name in ("first", "second"))
    total = client.submit(lambda *args: sum(args), first, second)
    total.cancel()
    total.retry()
    (tmp_path / "first").touch()
    assert first.result() == 1
    assert total.status == "pending"
    (tmp_path / "second").touch()
    assert total.result() == 2


@pytest.mark.parametrize("delayed", [mh.delayed, dask.delayed], ids=["ours", "dask"])
def test_what_compute_has_failed_at_is_computed_again(client, delayed, tmp_path):
    failed = client.compute(delayed(second_time)(str(tmp_path / "one")))
    later = client.submit(inc, failed)
    assert isinstance(later.exception(), OSError)
    later.retry()
    assert (later.result(), failed.result()) == (6, 5)


def test_what_has_not_failed_is_left_alone(client, tmp_path):
    done, running, data = client.submit(inc, 1), client.submit(pause, str(tmp_path / "go")), client.scatter(3)
    done.result()
    client.retry([done, running, data])
    (tmp_path / "go").touch()
    assert client.gather([done, running, data]) == [2, 1, 3]


# Resources


def most(folder):
    """How many are here at once, at most, as seen from this one."""
    own = Path(folder, f"{os.getpid()}-{threading.get_native_id()}")
    own.touch()
    found = 0
    for _ in range(5):
        found = max(found, len(os.listdir(folder)))
        time.sleep(0.002)
    own.unlink()
    return found


ASKING = {
    "submit": lambda client, folder: [client.submit(most, folder, resources={"licence": 1}) for _ in range(12)],
    "map": lambda client, folder: client.map(most, [folder] * 12, resources={"licence": 1}),
    "map with a keyword": lambda client, folder: client.map(
        lambda _, folder: most(folder), range(12), resources={"licence": 1}, folder=folder
    ),
    "of a future": lambda client, folder: client.map(most, client.scatter([folder] * 12), resources={"licence": 1}),
    "compute": lambda client, folder: client.compute(
        [mh.delayed(most)(folder) for _ in range(12)], resources={"licence": 1}
    ),
    "compute of dask": lambda client, folder: client.compute(
        [dask.delayed(most, pure=False)(folder) for _ in range(12)], resources={"licence": 1}
    ),
}


@pytest.mark.parametrize("face", ASKING)
def test_no_more_calls_at_once_than_there_is_enough_for(face, client, tmp_path):
    with mh.config.set(resources={"licence": 1}):
        assert client.gather(ASKING[face](client, str(tmp_path))) == [1] * 12


def test_the_settings_are_those_of_the_moment_of_the_call(client):
    draw = mh.delayed(lambda rng=None: float(rng.random()))
    with mh.config.set(seed=7):
        futures = [client.compute(draw()) for _ in range(3)]
        theirs = [client.compute(dask.delayed(lambda rng=None: float(rng.random()))()) for _ in range(3)]
    assert len({future.result() for future in [*futures, *theirs]}) == 1


def test_the_block_counts_also_for_calls_that_wait_and_so_does_what_there_was(client, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with mh.config.set(resources={"licence": 1}), mh.resources(licence=1):
        go = client.submit(pause, str(tmp_path / "go"))
        futures = [client.submit(lambda _, path: most(path), go, str(folder)) for _ in range(8)]
        lazy = client.compute([mh.delayed(most)(str(folder)) for _ in range(4)])
    (tmp_path / "go").touch()
    assert client.gather([*futures, *lazy]) == [1] * 12


def test_resources_that_cannot_be_had_are_refused(client):
    for verb in (
        lambda: client.submit(inc, 1, resources={"licence": 1}),
        lambda: client.map(inc, [1], resources={"licence": 1}),
        lambda: client.compute(mh.delayed(inc)(1), resources={"licence": 1}).result(),
        lambda: client.compute(dask.delayed(inc)(1), resources={"licence": 1}).result(),
        lambda: client.submit(lambda: get_client().submit(inc, 1, resources={"licence": 1})).result(),
    ):
        with pytest.raises(mh.ConfigError, match="licence"):
            verb()
    with mh.config.set(resources={"licence": 1}), pytest.raises(mh.ConfigError, match=r"0\.5"):
        client.submit(inc, 1, resources={"licence": 0.5})


# Dask's annotations


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_annotated_tasks_of_dask_have_what_they_need(scheduler, tmp_path):
    with mh.config.set(scheduler=scheduler, num_workers=3, resources={"licence": 1}):
        with dask.annotate(resources={"licence": 1}):
            asking = [dask.delayed(most, pure=False)(str(tmp_path)) for _ in range(12)]
        free = [dask.delayed(inc)(i) for i in range(12)]
        found, others = dask.compute(asking, free, scheduler=manyhands.dask.get)
        assert (found, others) == ([1] * 12, list(range(1, 13)))
        assert dask.persist(asking[0], scheduler=manyhands.dask.get)[0].compute() == 1
        with Client(n_workers=3, processes=scheduler == "processes") as client:
            assert client.gather(client.compute(asking)) == [1] * 12
        with dask.annotate(resources={"licence": 2}):
            greedy = dask.delayed(inc)(1)
        for verb in (greedy.compute, greedy.persist):
            with pytest.raises(mh.ConfigError, match=r"inc.*asks for 2 of 'licence'"):
                verb(scheduler=manyhands.dask.get)
        with pytest.raises(mh.ConfigError, match="Dask's own loop"):
            asking[0].compute(scheduler=manyhands.dask.get, rerun_exceptions_locally=True)


@pytest.mark.parametrize("kind", ["array", "bag"])
def test_what_dask_loses_of_annotations_is_said(kind):
    with dask.annotate(resources={"licence": 2}):
        lazy = da.ones(4, chunks=2) + 1 if kind == "array" else db.from_sequence([1], npartitions=1).map(inc)
    lazy = lazy.sum()
    with mh.config.set(resources={"licence": 1}):
        with pytest.warns(UserWarning, match=r"annotate.*optimize_graph=False"):
            lazy.compute(scheduler=manyhands.dask.get)
        with pytest.raises(mh.ConfigError, match="asks for 2 of 'licence'"):
            lazy.compute(scheduler=manyhands.dask.get, optimize_graph=False)
