"""Graphs of well-known shapes, written once for every engine.

A shape gets `lazy`, which turns a function into one whose calls are tasks, and returns the tasks that are wanted. With
`lazy` the identity it computes at once: that is what the results are compared with. The shapes merge, merge_slow, tree,
bag, groupby and join are named in the paper on RSDS (Beránek and Böhm, "Runtime vs Scheduler: Analyzing Dask's
Overheads", 2020), crossv and nestedcrossv in that group's simulations (Estee). They are written anew here: merge,
merge_slow, tree and bag after the definitions in that project's benchmarks, the others after their names alone, over
data made from numbers.
"""

import collections
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benches.workload import spin

Lazy = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Shape:
    """A graph of a size that can be chosen; larger sizes are tried only where smaller ones are quick."""

    name: str
    sizes: tuple[int, ...]
    draw: Callable[[Lazy, int], list[Any]]
    label: Callable[[int], str]


def add(left: Any, right: Any) -> Any:
    """Sum two results."""
    return left + right


def total(*parts: Any) -> Any:
    """Sum any number of results."""
    return sum(parts)


def same(x: int) -> int:
    """Give the number back."""
    return x


def nap(duration_s: float) -> float:
    """Sleep."""
    time.sleep(duration_s)
    return duration_s


def in_groups(lazy_function: Callable[..., Any], parts: list[Any], arity: int) -> Any:
    """Reduce results in a tree of groups of so many."""
    while len(parts) > 1:
        parts = [lazy_function(*parts[i : i + arity]) for i in range(0, len(parts), arity)]
    return parts[0]


def tree(lazy: Lazy, n_leaves: int) -> list[Any]:
    """Leaves that are tasks, summed in pairs."""
    leaf, pair = lazy(same), lazy(add)
    return [in_groups(pair, [leaf(i) for i in range(n_leaves)], 2)]


def merge(lazy: Lazy, n: int) -> list[Any]:
    """Many small tasks, all read by one."""
    one = lazy(same)
    return [lazy(total)(*[one(i) for i in range(n)])]


def merge_slow(lazy: Lazy, n: int) -> list[Any]:
    """The same with tasks that take a while, without work."""
    one = lazy(nap)
    return [lazy(total)(*[one(0.005) for _ in range(n)])]


def method(fold: int, number: int, n_turns: int) -> int:
    """Stand for one method on one fold: a millisecond of work."""
    return fold * number + spin(n_turns)


def nested(turn_s: float, lazy: Lazy, n: int) -> list[Any]:
    """10 folds with as many methods each, of 1 ms, summed within folds and over them."""
    one, summed = lazy(method), lazy(total)
    n_turns = round(1e-3 / turn_s)
    folds = [summed(*[one(fold, number, n_turns) for number in range(n // 10)]) for fold in range(10)]
    return [summed(*folds)]


def people(seed: int, n: int) -> list[tuple[int, str]]:
    """Ages and occupations of made-up people."""
    state, found = seed + 1, []
    for _ in range(n):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        found.append((state >> 8 & 63, f"occupation {state >> 16 & 31}"))
    return found


def adults(records: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those over thirty."""
    return [record for record in records if record[0] > 30]


def occupations(records: list[tuple[int, str]]) -> list[str]:
    """What they do."""
    return [occupation for _, occupation in records]


def frequencies(names: list[str]) -> "collections.Counter[str]":
    """How often each occurs."""
    return collections.Counter(names)


def joined_counts(*counts: "collections.Counter[str]") -> "collections.Counter[str]":
    """Sum counts."""
    joined: collections.Counter[str] = collections.Counter()
    for count in counts:
        joined.update(count)
    return joined


def most_frequent(counts: "collections.Counter[str]") -> list[tuple[int, str]]:
    """The ten that occur most."""
    return sorted(((n, name) for name, n in counts.items()), reverse=True)[:10]


def bag(lazy: Lazy, n_parts: int) -> list[Any]:
    """Filter, map and count records part by part, join the counts in a tree, take the most frequent."""
    make, keep, pluck, count = lazy(people), lazy(adults), lazy(occupations), lazy(frequencies)
    counts = [count(pluck(keep(make(part, 1000)))) for part in range(n_parts)]
    return [lazy(most_frequent)(in_groups(lazy(joined_counts), counts, 8))]


def samples(seed: int, n: int) -> Any:
    """A table of integers: twenty features and a response in the last column."""
    import numpy as np

    rows = np.random.default_rng(seed).integers(-9, 10, (n, 21)).astype(float)
    rows[:, 20] += rows[:, :20].sum(axis=1)
    return rows


def products(rows: Any) -> Any:
    """All sums of products that a regression needs."""
    return rows.T @ rows


def fit(moments: Any, penalty: float) -> Any:
    """Ridge regression from its sums of products."""
    import numpy as np

    return np.linalg.solve(moments[:20, :20] + penalty * np.eye(20), moments[:20, 20])


def error(rows: Any, coefficients: Any) -> float:
    """Mean squared error on rows that the fit has not seen, rounded as sums may be taken in another order."""
    return round(float(((rows[:, :20] @ coefficients - rows[:, 20]) ** 2).mean()), 6)


def average(*numbers: float) -> float:
    """The mean of errors."""
    return sum(numbers) / len(numbers)


def best(penalties: tuple[float, ...], *errors: float) -> float:
    """The penalty with the smallest error."""
    return min(zip(errors, penalties))[1]


def _validate(lazy: Lazy, parts: list[Any], moments: list[Any], penalty: float) -> Any:
    """Leave out each part in turn, fit on the others, and average the errors."""
    summed, fitted, tested = lazy(total), lazy(fit), lazy(error)
    errors = []
    for i, part in enumerate(parts):
        others = summed(*[moments[k] for k in range(len(parts)) if k != i])
        errors.append(tested(part, fitted(others, penalty)))
    return lazy(average)(*errors)


def _parts(lazy: Lazy, n_parts: int) -> tuple[list[Any], list[Any]]:
    make, multiply = lazy(samples), lazy(products)
    parts = [make(i, 2000) for i in range(n_parts)]
    return parts, [multiply(part) for part in parts]


def crossv(lazy: Lazy, n_folds: int) -> list[Any]:
    """Cross-validation for five penalties."""
    parts, moments = _parts(lazy, n_folds)
    return [_validate(lazy, parts, moments, 10.0**power) for power in range(5)]


def nestedcrossv(lazy: Lazy, n_folds: int) -> list[Any]:
    """Cross-validation around a cross-validation that chooses the penalty."""
    parts, moments = _parts(lazy, n_folds)
    penalties = tuple(10.0**power for power in range(3))
    summed, fitted, tested, chosen = lazy(total), lazy(fit), lazy(error), lazy(best)
    errors = []
    for i in range(n_folds):
        inner = [k for k in range(n_folds) if k != i]
        inner_parts, inner_moments = [parts[k] for k in inner], [moments[k] for k in inner]
        inside = [_validate(lazy, inner_parts, inner_moments, penalty) for penalty in penalties]
        errors.append(tested(parts[i], fitted(summed(*inner_moments), chosen(penalties, *inside))))
    return [lazy(average)(*errors)]


def rows_of(seed: int, n: int, n_keys: int) -> Any:
    """A table of two columns, a key and a number."""
    import numpy as np

    random = np.random.default_rng(seed)
    return np.stack([random.integers(0, n_keys, n), random.integers(0, 1000, n)], axis=1)


def sums_by_key(rows: Any) -> Any:
    """The sum and the number of the rows of each of a thousand keys."""
    import numpy as np

    sums = np.bincount(rows[:, 0], rows[:, 1], minlength=1000)
    return np.stack([sums, np.bincount(rows[:, 0], minlength=1000)])


def means_by_key(sums: Any) -> float:
    """The sum of the means, so that the result is one number."""
    return round(float((sums[0] / sums[1].clip(1)).sum()), 6)


def groupby(lazy: Lazy, n_parts: int) -> list[Any]:
    """Sum by key within parts, join the sums in a tree, take the means."""
    make, reduce, joined = lazy(rows_of), lazy(sums_by_key), lazy(total)
    sums = [reduce(make(part, 20_000, 1000)) for part in range(n_parts)]
    return [lazy(means_by_key)(in_groups(joined, sums, 8))]


def piece(rows: Any, number: int, n_pieces: int) -> Any:
    """The rows whose keys belong to one piece."""
    return rows[rows[:, 0] % n_pieces == number]


def match(n_left: int, *pieces: Any) -> int:
    """Join the left with the right pieces by key; return the sum of products of the matching rows."""
    import numpy as np

    left, right = np.concatenate(pieces[:n_left]), np.concatenate(pieces[n_left:])
    sums = [np.bincount(side[:, 0], side[:, 1], minlength=10_000) for side in (left, right)]
    return int((sums[0] * sums[1]).sum())


def join(lazy: Lazy, n_parts: int) -> list[Any]:
    """Two tables cut by key in every part, and each key's pieces of both brought together."""
    make, cut, matched = lazy(rows_of), lazy(piece), lazy(match)
    tables = [[make(1000 * side + part, 10_000, 10_000) for part in range(n_parts)] for side in range(2)]
    matches = []
    for number in range(n_parts):
        pieces = [[cut(rows, number, n_parts) for rows in table] for table in tables]
        matches.append(matched(n_parts, *pieces[0], *pieces[1]))
    return [lazy(total)(*matches)]


def all_shapes(turn_s: float) -> list[Shape]:
    """Every shape, at the sizes it is tried at."""
    return [
        Shape("tree", (1 << 10, 1 << 14), tree, lambda n: f"{n:,} leaves"),
        Shape("merge", (1000, 10_000), merge, lambda n: f"{n:,} to 1"),
        Shape("nested loops, 1 ms a task", (300,), functools.partial(nested, turn_s), lambda n: f"{n} tasks"),
        Shape("merge_slow, 5 ms a task", (200,), merge_slow, lambda n: f"{n} to 1"),
        Shape("bag", (64,), bag, lambda n: f"{n} parts"),
        Shape("crossv", (10,), crossv, lambda n: f"{n} folds"),
        Shape("nestedcrossv", (10,), nestedcrossv, lambda n: f"{n} folds"),
        Shape("groupby", (64,), groupby, lambda n: f"{n} parts"),
        Shape("join", (16,), join, lambda n: f"2 × {n} parts"),
    ]


def at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Be the `lazy` that is not: what it draws are results."""
    return function
