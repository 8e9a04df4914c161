"""manyhands and the other engines, each set up as its documentation advises for many small tasks on one machine.

An engine opens once and offers some of: a map, in the ways its users write one; tasks that read other tasks; one round
trip; the analysis of one large array, in the ways its users hand it over. What an engine offers decides which cases it
gets, see `benches.peers.cases`.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benches.shapes import Lazy
from benches.workload import call_batch, mean, noop

N_WORKERS = 2
BATCH = 1000
N_MEANS = 8

Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
Means = Callable[[Any], list[float]]


@dataclass(frozen=True)
class Graph:
    """Tasks that read others: how one is made, and how the wanted ones are computed."""

    lazy: Lazy
    compute: Callable[[list[Any]], list[Any]]
    settings: str


@dataclass(frozen=True)
class Offer:
    """What an opened engine can do; the first of several ways is the default one."""

    maps: dict[str, Map] = field(default_factory=dict)
    graph: Graph | None = None
    round_trip: Callable[[], object] | None = None
    means: dict[str, Means] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """An engine: how it is opened, and what a program needs to get its first result."""

    name: str
    module: str
    open: Callable[[], "contextlib.AbstractContextManager[Offer]"]
    first_result: str = ""

    def installed(self) -> bool:
        """Whether this environment has it."""
        return importlib.util.find_spec(self.module) is not None


def means_by_map(run_map: Map) -> Means:
    """The array as an argument of each call of a map."""
    return lambda data: run_map(mean, [data] * N_MEANS)


def means_by_graph(graph: Graph) -> Means:
    """The array as an argument of each task."""

    def means(data: Any) -> list[float]:
        task = graph.lazy(mean)
        return graph.compute([task(data) for _ in range(N_MEANS)])

    return means


@contextlib.contextmanager
def manyhands(scheduler: str) -> Iterator[Offer]:
    """Ours, with no setting but the scheduler."""
    import manyhands as mh

    with mh.config.set(scheduler=scheduler, num_workers=N_WORKERS):
        yield Offer(
            maps={"": mh.map},
            graph=Graph(mh.delayed, lambda tasks: list(mh.compute(*tasks)), ""),
            round_trip=lambda: mh.submit(noop, 1).result(),
            means={"": means_by_map(mh.map)},
        )


@contextlib.contextmanager
def multiprocessing_pool() -> Iterator[Offer]:
    """The standard library's pool, which cuts a map into four static chunks a worker."""
    import multiprocessing

    with multiprocessing.Pool(N_WORKERS) as pool:
        yield Offer(
            maps={
                "static chunks (its default)": pool.map,
                "chunksize=1": functools.partial(pool.map, chunksize=1),
            },
            round_trip=lambda: pool.apply(noop, (1,)),
            means={"argument": means_by_map(pool.map)},
        )


def _futures_graph(pool: Any) -> Graph:
    """Futures as tasks: who submits a task waits for its inputs first, as there is no other way."""
    from concurrent.futures import Future

    def lazy(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return pool.submit(function, *[arg.result() if isinstance(arg, Future) else arg for arg in args])

        return call

    return Graph(lazy, lambda tasks: [task.result() for task in tasks], "submit, inputs waited for")


@contextlib.contextmanager
def futures_processes() -> Iterator[Offer]:
    """The standard library's executor; its users choose the chunk size."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(N_WORKERS) as pool:

        def default(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return list(pool.map(function, items))

        yield Offer(
            maps={
                "chunksize=1 (its default)": default,
                f"chunksize={BATCH}": lambda function, items: list(pool.map(function, items, chunksize=BATCH)),
            },
            graph=_futures_graph(pool),
            round_trip=lambda: pool.submit(noop, 1).result(),
            means={"argument": means_by_map(default)},
        )


@contextlib.contextmanager
def futures_threads() -> Iterator[Offer]:
    """The standard library's threads."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(N_WORKERS) as pool:

        def default(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return list(pool.map(function, items))

        yield Offer(
            maps={"its default": default},
            graph=_futures_graph(pool),
            round_trip=lambda: pool.submit(noop, 1).result(),
            means={"argument": means_by_map(default)},
        )


@dataclass(frozen=True)
class _Node:
    """A task of a graph that is computed level by level."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    level: int


def _by_levels(run_level: Callable[[list[tuple[Callable[..., Any], list[Any]]]], list[Any]]) -> Graph:
    """A graph for engines that know no dependencies: one call for all tasks that are equally deep."""
    drawn: list[_Node] = []

    def lazy(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> _Node:
            level = 1 + max((arg.level for arg in args if isinstance(arg, _Node)), default=-1)
            drawn.append(_Node(function, args, level))
            return drawn[-1]

        return call

    def compute(wanted: list[Any]) -> list[Any]:
        levels: dict[int, list[_Node]] = {}
        for node in drawn:
            levels.setdefault(node.level, []).append(node)
        drawn.clear()
        results: dict[int, Any] = {}
        for level in sorted(levels):
            calls = [
                (node.function, [results[id(arg)] if isinstance(arg, _Node) else arg for arg in node.args])
                for node in levels[level]
            ]
            results.update(zip(map(id, levels[level]), run_level(calls)))
        return [results[id(node)] for node in wanted]

    return Graph(lazy, compute, "one Parallel a level")


@contextlib.contextmanager
def joblib_loky() -> Iterator[Offer]:
    """Set up joblib with its default backend, kept open, which is its warm configuration."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    with (
        joblib.Parallel(N_WORKERS, backend="loky") as automatic,
        joblib.Parallel(N_WORKERS, backend="loky", batch_size=BATCH) as batches,
    ):

        def map_with(parallel: Any) -> Map:
            return lambda function, items: parallel(joblib.delayed(function)(item) for item in items)

        default = map_with(automatic)
        yield Offer(
            maps={"batch_size='auto' (its default)": default, f"batch_size={BATCH}": map_with(batches)},
            graph=_by_levels(lambda calls: automatic(joblib.delayed(function)(*args) for function, args in calls)),
            means={"argument, mapped from a file": means_by_map(default)},
        )
    get_reusable_executor().shutdown(wait=True)


@contextlib.contextmanager
def loky_executor() -> Iterator[Offer]:
    """The executor under joblib, which alone has a submit."""
    from joblib.externals.loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=N_WORKERS)
    yield Offer(round_trip=lambda: executor.submit(noop, 1).result())
    executor.shutdown(wait=True)


def _dask_map(graph: Graph) -> Map:
    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        task = graph.lazy(function)
        return graph.compute([task(item) for item in items])

    return run


@contextlib.contextmanager
def dask_local(scheduler: str) -> Iterator[Offer]:
    """Dask's local schedulers. Left alone, Dask starts a pool for each compute; one of one's own is its warm setup."""
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    import dask

    pool_class = {"processes": ProcessPoolExecutor, "threads": ThreadPoolExecutor}[scheduler]
    with pool_class(N_WORKERS) as pool, dask.config.set(scheduler=scheduler, pool=pool):
        graph = Graph(dask.delayed, lambda tasks: list(dask.compute(*tasks)), "delayed, warm pool")
        yield Offer(
            maps={"delayed, warm pool": _dask_map(graph)},
            graph=graph,
            means={"argument": means_by_graph(graph)},
        )


def dask_first_result(scheduler: str) -> str:
    """The shortest program."""
    return f"""
import dask
assert dask.compute(dask.delayed(abs)(-1), scheduler="{scheduler}", num_workers={N_WORKERS}) == (1,)"""


@contextlib.contextmanager
def dask_distributed() -> Iterator[Offer]:
    """Dask's own cluster on this machine, without its dashboard."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}),
        LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster,
        Client(cluster) as client,
    ):

        def batched(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
            futures = client.map(functools.partial(call_batch, function), batches, pure=False)
            return [result for batch in client.gather(futures) for result in batch]

        def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return list(client.gather(client.map(function, items, pure=False)))

        def scattered(data: Any) -> list[float]:
            there = client.scatter(data, broadcast=False, hash=False)
            return list(client.gather([client.submit(mean, there, pure=False) for _ in range(N_MEANS)]))

        def plain(data: Any) -> list[float]:
            return list(client.gather([client.submit(mean, data, pure=False) for _ in range(N_MEANS)]))

        yield Offer(
            maps={"client.map": each, f"client.map of batches of {BATCH} made by hand": batched},
            graph=Graph(dask.delayed, lambda tasks: list(dask.compute(*tasks)), "delayed"),
            round_trip=lambda: client.submit(noop, 1, pure=False).result(),
            means={"scatter by hand": scattered, "argument": plain},
        )


@contextlib.contextmanager
def ray_tasks() -> Iterator[Offer]:
    """Ray on this machine, without its dashboard."""
    import ray

    ray.init(num_cpus=N_WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")

    def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        remote = ray.remote(function)
        return list(ray.get([remote.remote(item) for item in items]))

    def batched(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        remote = ray.remote(call_batch)
        batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
        return [result for batch in ray.get([remote.remote(function, batch) for batch in batches]) for result in batch]

    def put(data: Any) -> list[float]:
        remote, there = ray.remote(mean), ray.put(data)
        return list(ray.get([remote.remote(there) for _ in range(N_MEANS)]))

    one = ray.remote(noop)
    yield Offer(
        maps={"one task a call": each, f"batches of {BATCH} made by hand": batched},
        graph=Graph(lambda function: ray.remote(function).remote, lambda tasks: list(ray.get(tasks)), "tasks"),
        round_trip=lambda: ray.get(one.remote(1)),
        means={"ray.put by hand": put},
    )
    ray.shutdown()


OURS = {
    scheduler: Engine(
        f"manyhands {scheduler}",
        "manyhands",
        functools.partial(manyhands, scheduler),
        f"""
import manyhands as mh
assert mh.map(abs, [-1], scheduler="{scheduler}", num_workers={N_WORKERS}) == [1]""",
    )
    for scheduler in ("processes", "threads")
}

PEERS = [
    Engine(
        "multiprocessing.Pool",
        "multiprocessing",
        multiprocessing_pool,
        f"""
import multiprocessing
pool = multiprocessing.Pool({N_WORKERS})
assert pool.map(abs, [-1]) == [1]""",
    ),
    Engine(
        "concurrent.futures processes",
        "concurrent.futures",
        futures_processes,
        f"""
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor({N_WORKERS})
assert list(pool.map(abs, [-1])) == [1]""",
    ),
    Engine(
        "concurrent.futures threads",
        "concurrent.futures",
        futures_threads,
        f"""
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor({N_WORKERS})
assert list(pool.map(abs, [-1])) == [1]""",
    ),
    Engine(
        "joblib, loky",
        "joblib",
        joblib_loky,
        f"""
from joblib import Parallel, delayed
assert Parallel({N_WORKERS})(delayed(abs)(i) for i in (-1, -2)) == [1, 2]""",
    ),
    Engine("loky executor", "joblib", loky_executor),
    Engine(
        "Ray",
        "ray",
        ray_tasks,
        f"""
import ray
ray.init(num_cpus={N_WORKERS}, include_dashboard=False, log_to_driver=False, logging_level="error")
assert ray.get(ray.remote(lambda i: abs(i)).remote(-1)) == 1""",
    ),
    Engine(
        "Dask threads",
        "dask",
        functools.partial(dask_local, "threads"),
        dask_first_result("threads"),
    ),
    Engine(
        "Dask processes",
        "dask",
        functools.partial(dask_local, "processes"),
        dask_first_result("processes"),
    ),
    Engine(
        "Dask distributed",
        "distributed",
        dask_distributed,
        f"""
from distributed import Client, LocalCluster
cluster = LocalCluster(n_workers={N_WORKERS}, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
assert client.submit(abs, -1).result() == 1""",
    ),
]

ENGINES = {engine.name: engine for engine in [*PEERS, *OURS.values()]}
