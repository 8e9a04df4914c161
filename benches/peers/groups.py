"""Groups of cases that each have a table of their own in RESULTS.md: how what people use already runs on manyhands.

Each case opens what it needs, holds its contests, and closes it. Sizes are divided by `shrink`.
"""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches import checkpoints, draws
from benches.measure import duration
from benches.peers import contests, dask_jobs, nested, sklearn_jobs
from benches.peers.contests import Contest, Record, Way, hold
from benches.peers.engines import N_WORKERS
from benches.workload import check, digest, digest_s, noop, spin, turn_s

Case = Callable[[int], Iterator[Record]]


@dataclass(frozen=True)
class Group:
    """Cases with a table."""

    name: str
    title: str
    about: str
    cases: dict[str, Case]
    limit_s: float
    """What the whole group may take; a case may take all that is left of it."""
    header: tuple[str, ...] = contests.HEADER


# scikit-learn, by joblib


def sklearn_case(job: sklearn_jobs.Job, shrink: int) -> Iterator[Record]:
    """One call of scikit-learn with `n_jobs`, on several backends of joblib."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    import manyhands.joblib

    manyhands.joblib.register()
    size, run, check_result = job.prepare(shrink)

    def on(backend: str, **options: Any) -> Callable[[], object]:
        def run_there() -> object:
            with joblib.parallel_config(backend=backend, n_jobs=N_WORKERS, **options):
                return run(N_WORKERS)

        return run_there

    ways = [
        Way("manyhands processes", "its default", on("manyhands", scheduler="processes")),
        Way("joblib, loky", "warm", on("loky"), reach=job.reach),
        Way("manyhands threads", "scheduler='threads'", on("manyhands", scheduler="threads")),
        Way("joblib, threading", "", on("threading")),
        Way("none", "n_jobs=1", lambda: run(1), n_workers=N_WORKERS),
    ]
    yield from hold(Contest(job.name, size, ways, check_result, budget_s=15.0))
    # What loky has mapped from files is gone then, and the machine's shared memory is free again.
    get_reusable_executor().shutdown(wait=True)


# Dask's graphs


@contextlib.contextmanager
def dask_schedulers() -> Iterator[dict[str, dict[str, Any]]]:
    """The keywords of ``compute`` for each scheduler; ours first, by the name of the engine. All are warm.

    Dask starts a pool for each ``compute`` when it is left alone; one of one's own is its fast way.
    """
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    import dask

    import manyhands as mh
    import manyhands.dask

    # The processes first: who forks should have no threads yet.
    with ProcessPoolExecutor(N_WORKERS) as processes, ThreadPoolExecutor(N_WORKERS) as threads:
        list(processes.map(noop, range(4 * N_WORKERS)))
        get = manyhands.dask.get
        with mh.config.set(num_workers=N_WORKERS), dask.config.set(num_workers=N_WORKERS):
            yield {
                "manyhands threads": {"scheduler": get},
                "manyhands processes": {"scheduler": functools.partial(get, scheduler="processes")},
                "Dask threads": {"scheduler": "threads", "pool": threads},
                "Dask processes": {"scheduler": "processes", "pool": processes},
                "Dask synchronous": {"scheduler": "synchronous"},
            }


def _dask_contest(
    case: str,
    size: str,
    run: Callable[[dict[str, Any]], object],
    schedulers: dict[str, Any],
    reach: float | None = None,
    in_a_loop: Callable[[], object] | None = None,
) -> Iterator[Record]:
    settings = {"manyhands threads": "manyhands.dask.get", "manyhands processes": "scheduler='processes'"}
    ways = [
        Way(
            engine,
            settings.get(engine, "warm pool" if "pool" in compute else ""),
            functools.partial(run, compute),
            reach=None if engine.startswith("manyhands") else reach,
        )
        for engine, compute in schedulers.items()
    ]
    if in_a_loop is not None:
        ways.append(Way("none", "its tasks in a plain loop", in_a_loop, n_workers=N_WORKERS))
    yield from hold(Contest(case, size, ways, budget_s=12.0, long_s=10.0))


def dask_graph(job: dask_jobs.Job, shrink: int) -> Iterator[Record]:
    """A graph of at least 10 000 tasks: alone, as Dask has optimised it; and with its drawing."""
    import dask

    n = max(4, job.n // shrink)
    with dask_schedulers() as schedulers:
        graph, keys, finish = dask_jobs.ready(job, n)

        def alone(compute: dict[str, Any]) -> None:
            get = compute["scheduler"]
            rest = {key: value for key, value in compute.items() if key != "scheduler"}
            if isinstance(get, str):
                get = dask.base.get_scheduler(scheduler=get)
            job.check(finish(get(graph, keys, **rest)), n)

        run = dask_jobs.loop(graph, keys)

        def in_a_loop() -> None:
            job.check(finish(run()), n)

        size = f"{len(graph):,} tasks"
        yield from _dask_contest(f"{job.name}, its graph", size, alone, schedulers, 3.0, in_a_loop)

        def whole(compute: dict[str, Any]) -> None:
            job.check(job.draw(n).compute(**compute), n)

        yield from _dask_contest(f"{job.name}, drawn and computed", size, whole, schedulers)


def dask_flights(shrink: int) -> Iterator[Record]:
    """22 files, from which three results are read in one graph."""
    n_rows = 20_000 // shrink
    dask_jobs.expected_delays(n_rows)
    with dask_schedulers() as schedulers:
        yield from _dask_contest(
            "22 files of flights: min, max, groupby",
            f"{dask_jobs.N_FILES * n_rows:,} rows",
            functools.partial(dask_jobs.airline, n_rows),
            schedulers,
        )


def dask_large_array(shrink: int) -> Iterator[Record]:
    """An array job with large blocks, whose time is NumPy's."""
    n = max(2, 12 // shrink)
    with dask_schedulers() as schedulers:
        yield from _dask_contest(
            "array: random, standardised, its second moments",
            f"{n} blocks of 8 MB",
            functools.partial(dask_jobs.moments, n),
            schedulers,
        )


# Executors


def executor_case(kind: str, shrink: int) -> Iterator[Record]:
    """Short calls through `map` and `submit`, beside the standard library's executor of the same kind."""
    import concurrent.futures

    import manyhands as mh

    theirs = {"processes": concurrent.futures.ProcessPoolExecutor, "threads": concurrent.futures.ThreadPoolExecutor}
    function = spin if kind == "processes" else digest
    with theirs[kind](N_WORKERS) as peer:
        list(peer.map(noop, range(4 * N_WORKERS)))
        with mh.Executor(N_WORKERS, scheduler=kind) as ours:
            one_s = turn_s(lambda timed, items: list(ours.map(timed, items))) if kind == "processes" else digest_s()
            for name, call_s, n in (("no-ops", 0.0, 5000), ("100 µs", 1e-4, 2000), ("1 ms", 1e-3, 400)):
                n = max(10, n // shrink)
                calls = Calls(kind, name, function, [int(call_s / one_s)] * n)
                yield from hold(_executor_map(calls, ours, peer))
                yield from hold(_executor_submit(calls, ours, peer))


@dataclass(frozen=True)
class Calls:
    """What is given to executors of one kind."""

    kind: str
    name: str
    function: Callable[[int], int]
    items: list[int]

    def contest(self, method: str, ways: list[Way]) -> Contest:
        """Of these ways, and a plain loop."""
        in_a_loop = Way("none", "a plain loop", lambda: list(map(self.function, self.items)), n_workers=N_WORKERS)
        name, size = f"Executor.{method}, {self.name}", f"{len(self.items):,} calls"
        return Contest(name, size, [*ways, in_a_loop], _equals(self.items), budget_s=4.0)


def _executor_map(calls: Calls, ours: Any, peer: Any) -> Contest:
    kind, function, items = calls.kind, calls.function, calls.items
    chunk = max(1, len(items) // (4 * N_WORKERS))
    ways = [
        Way(f"manyhands {kind}", "", lambda: list(ours.map(function, items))),
        Way(f"concurrent.futures {kind}", "its default", lambda: list(peer.map(function, items)), reach=2.0),
    ]
    if kind == "processes":
        by_hand = Way(
            f"concurrent.futures {kind}",
            f"chunksize={chunk}, by hand",
            lambda: list(peer.map(function, items, chunksize=chunk)),
        )
        ways.append(by_hand)
    return calls.contest("map", ways)


def _executor_submit(calls: Calls, ours: Any, peer: Any) -> Contest:
    def submit(executor: Any) -> list[int]:
        futures = [executor.submit(calls.function, item) for item in calls.items]
        return [future.result() for future in futures]

    ways = [
        Way(f"manyhands {calls.kind}", "", lambda: submit(ours)),
        Way(f"concurrent.futures {calls.kind}", "", lambda: submit(peer), reach=2.0),
    ]
    return calls.contest("submit", ways)


def _equals(expected: object) -> Callable[[object], None]:
    def compare(found: object) -> None:
        if found != expected:
            raise AssertionError(f"the results are not those expected: {found!r:.80}")

    return compare


# The client


def client_case(how: str, shrink: int) -> Iterator[Record]:
    """No-ops through a client's `map` and `gather`, beside Dask's cluster of processes, and of threads."""
    import dask
    import distributed

    from manyhands.distributed import Client

    n = 10_000 // shrink
    processes = how == "processes"

    def run(client: Any, **keywords: Any) -> None:
        check(list(client.gather(client.map(noop, range(n), **keywords))), n)

    options = {
        "n_workers": N_WORKERS if processes else 1,
        "threads_per_worker": 1 if processes else N_WORKERS,
        "processes": processes,
    }
    with (
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}),
        distributed.LocalCluster(**options, dashboard_address=None, memory_limit=0) as cluster,
        distributed.Client(cluster) as peer,
        Client(**options) as ours,
    ):
        peer.gather(peer.map(noop, range(100), pure=False))
        ways = [
            Way(f"manyhands.distributed {how}", "client.map, client.gather", lambda: run(ours)),
            Way(f"Dask distributed {how}", "the same, pure=False", lambda: run(peer, pure=False), reach=100.0),
        ]
        yield from hold(
            Contest("Client.map and gather of no-ops", f"{n:,} calls", ways, n_runs=3, budget_s=60.0, long_s=25.0)
        )


# Nested calls, random numbers, checkpoints: tables of their own


def nested_case(name: str, shrink: int) -> Iterator[Record]:
    """One engine's nested calls, whose products of matrices have threads as well."""
    row = nested.watch(name) if shrink == 1 else nested.watch(name, n_calls=1, n_products=1)
    reached = ""
    if name.startswith("manyhands"):
        reached = "yes" if float(row[nested.MEDIAN]) <= nested.N_CPUS else "NO"
    yield {"row": [*row, f"≤ {nested.N_CPUS}" if reached else "", reached]}


def draws_case(name: str, shrink: int) -> Iterator[Record]:
    """Random numbers of three kinds, serially and on two threads."""
    source = draws.SOURCES[name]
    n = draws.N if shrink == 1 else 10 * draws.BLOCK
    found = draws.measure_source(source, n, source.n_turns if shrink == 1 else 1)
    ratio = found.threads_s / found.serial_s
    reached = "" if source.reach is None else "yes" if ratio <= source.reach else "NO"
    reach = "" if source.reach is None else f"≤ {source.reach:g}"
    n_tasks = f"{len(draws.KINDS) * source.n_parts}"
    yield {
        "row": [
            *(name, f"3 × {n:,}", n_tasks, duration(found.serial_s), duration(found.threads_s)),
            *(f"{ratio:.2f}", reach, reached),
        ]
    }


def checkpoint_case(scheduler: str, shrink: int) -> Iterator[Record]:
    """What each task of a map costs more when its result is durable."""
    n = 100_000 // shrink
    with tempfile.TemporaryDirectory(dir=".") as folder:
        cost = checkpoints.measure(scheduler, n, folder, 5 if shrink == 1 else 1)
    reached = "yes" if cost.more_s <= checkpoints.REACH_S else "NO"
    cells = [f"manyhands {scheduler}", "map(..., checkpoint=...)", f"{n:,}", duration(cost.plain_s)]
    reach = f"≤ {duration(checkpoints.REACH_S)}"
    yield {"row": [*cells, duration(cost.more_s), duration(cost.again_s), reach, reached]}


def memory_case(shrink: int) -> Iterator[Record]:
    """The same with joblib's cache of results."""
    n = 2000 // shrink
    with tempfile.TemporaryDirectory(dir=".") as folder:
        cost = checkpoints.measure_joblib(n, Path(folder), 3 if shrink == 1 else 1)
    cells = ["joblib.Memory", "a cached function in a loop", f"{n:,}", duration(cost.plain_s)]
    yield {"row": [*cells, duration(cost.more_s), duration(cost.again_s), "", ""]}


_TURNS = "Ways to the same result take turns in one process, all of them warm; each result is checked."

GROUPS = [
    Group(
        "scikit-learn",
        "scikit-learn on backends of joblib",
        f"{_TURNS} Reach: on loky it takes as long at least, and twice as long where data is large or fits are short.",
        {name: functools.partial(sklearn_case, job) for name, job in sklearn_jobs.JOBS.items()},
        160.0,
    ),
    Group(
        "dask",
        "Dask's graphs on Dask's schedulers, and on ours",
        f"{_TURNS} Reach, for graphs of at least 10 000 tasks: three times as fast as each of Dask's schedulers. "
        "Drawing and optimising a graph is Dask's own work on all of them.",
        {
            "array": functools.partial(dask_graph, dask_jobs.ARRAY),
            "frame": functools.partial(dask_graph, dask_jobs.FRAME),
            "shuffle": functools.partial(dask_graph, dask_jobs.SHUFFLE),
            "flights": dask_flights,
            "large array": dask_large_array,
        },
        480.0,
    ),
    Group(
        "executors",
        "Executors",
        f"{_TURNS} Reach: twice as fast as the executor of `concurrent.futures` of the same kind, on calls of at most "
        "1 ms. Nobody gets below half of the time of the plain loop, the work itself on two workers. "
        "Calls in processes loop; those in threads compute a digest, which leaves the interpreter to the other thread.",
        {kind: functools.partial(executor_case, kind) for kind in ("processes", "threads")},
        60.0,
    ),
    Group(
        "clients",
        "Clients",
        f"{_TURNS} Reach: a hundred times as fast as Dask's client on its local cluster.",
        {how: functools.partial(client_case, how) for how in ("processes", "threads")},
        130.0,
    ),
    Group(
        "nested",
        "Nested calls with products of matrices",
        "Each engine has a process of its own. Threads that run or wait for a CPU, in it and all its descendants, are "
        "counted while it works; more of them than CPUs is too many. The last column is the time of a call.",
        {name: functools.partial(nested_case, name) for name in nested.ENGINES},
        110.0,
        (*nested.HEADER, "reach of the first median", "reached"),
    ),
    Group(
        "draws",
        "Random numbers on two threads",
        "Gammas, normals and uniforms, so many of each. The gammas alone take about six tenths of the time of all, so "
        "that with one task for each kind two threads can do no better than that.",
        {name: functools.partial(draws_case, name) for name in draws.SOURCES},
        130.0,
        ("engine", "numbers", "tasks", "serially", "2 threads", "ratio", "reach", "reached"),
    ),
    Group(
        "checkpoints",
        "Durable results",
        "Time a task, of a function that does nothing: without, how much more with its result kept on disk, and again "
        "with all results there.",
        {
            **{name: functools.partial(checkpoint_case, name) for name in checkpoints.SCHEDULERS},
            "joblib": memory_case,
        },
        60.0,
        ("engine", "settings", "tasks", "without", "more with", "all there", "reach", "reached"),
    ),
]
