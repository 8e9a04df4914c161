"""Writes down how many results Dask's static order keeps alive, for our order to be held against.

Run by hand, in an environment of its own::

    python -m venv peers && peers/bin/pip install dask numpy
    peers/bin/python benches/peers/dask_order.py > crates/executor/tests/data/order_shapes.txt

Each shape is a graph of equal tasks. For 1, 2 and 4 workers that each take the ready task that comes
first in `dask.order.order`, the figure is the largest number of results that exist at one time and
were not asked for by the caller: from the end of a task to the end of the last task that reads it.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable, Iterable

import dask
from dask.order import order

Tasks = list[list[int]]
Shape = tuple[Tasks, list[int]]


class Drawing:
    """Tasks numbered in the order in which they are added; a task names those that it reads."""

    def __init__(self) -> None:
        self.tasks: Tasks = []

    def add(self, *inputs: int) -> int:
        """Add a task and return its number."""
        self.tasks.append(list(dict.fromkeys(inputs)))
        return len(self.tasks) - 1

    def chain(self, n: int, *inputs: int) -> int:
        """Add some tasks that each read the one before, and return the last."""
        last = self.add(*inputs)
        for _ in range(n - 1):
            last = self.add(last)
        return last

    def tree(self, leaves: Iterable[int], arity: int = 2) -> int:
        """Reduce these results in groups of so many, until one is left."""
        level = list(leaves)
        while len(level) > 1:
            level = [self.add(*level[i : i + arity]) for i in range(0, len(level), arity)]
        return level[0]


def tree(n: int, arity: int, depth: int) -> Shape:
    """Leaves of some steps each, reduced in a tree."""
    d = Drawing()
    root = d.tree([d.chain(depth) for _ in range(n)], arity)
    return d.tasks, [root]


def lopsided(n: int) -> Shape:
    """A sum from one end to the other: every step reads the one before and a leaf."""
    d = Drawing()
    total = d.add()
    for _ in range(n):
        total = d.add(total, d.chain(2))
    return d.tasks, [total]


def merge(n: int, depth: int) -> Shape:
    """Chains that one task reads."""
    d = Drawing()
    return d.tasks, [d.add(*[d.chain(depth) for _ in range(n)])]


def overlap(n: int, is_reduced: bool) -> Shape:
    """Blocks in a row, each joined with the edges of its neighbours."""
    d = Drawing()
    blocks = [d.add() for _ in range(n)]
    first = [d.add(b) for b in blocks]
    last = [d.add(b) for b in blocks]
    joined = []
    for i in range(n):
        edges = ([last[i - 1]] if i else []) + ([first[i + 1]] if i + 1 < n else [])
        joined.append(d.add(blocks[i], *edges))
    results = [d.add(j) for j in joined]
    return d.tasks, [d.tree(results, 4)] if is_reduced else results


def overlap_plane(n: int) -> Shape:
    """The same in two dimensions, eight neighbours each, reduced in a tree."""
    d = Drawing()
    block = {(i, j): d.add() for i in range(n) for j in range(n)}
    joined = []
    for i in range(n):
        for j in range(n):
            near = [block.get((i + a, j + b)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            joined.append(d.add(*[x for x in near if x is not None]))
    return d.tasks, [d.tree([d.add(j) for j in joined], 4)]


def neighbours(n: int) -> Shape:
    """Each result reads three of the inputs in a row; all results are wanted."""
    d = Drawing()
    inputs = [d.add() for _ in range(n)]
    return d.tasks, [d.add(*inputs[i : i + 3]) for i in range(n - 2)]


def shuffle(n: int, n_out: int, is_reduced: bool) -> Shape:
    """Every input is split and every output joins a part of each."""
    d = Drawing()
    inputs = [d.chain(2) for _ in range(n)]
    parts = [[d.add(i) for _ in range(n_out)] for i in inputs]
    outputs = [d.add(d.add(*[row[j] for row in parts])) for j in range(n_out)]
    return d.tasks, [d.tree(outputs)] if is_reduced else outputs


def two_steps(n: int, arity: int) -> Shape:
    """Deviations from a mean, and the mean of their squares."""
    d = Drawing()
    blocks = [d.add() for _ in range(n)]
    mean = d.tree([d.add(b) for b in blocks], arity)
    squares = [d.add(d.add(b, mean)) for b in blocks]
    return d.tasks, [d.tree(squares, arity)]


def anomalies(n_groups: int, n: int) -> Shape:
    """The same for each of some groups, and all of them put together."""
    d = Drawing()
    ends = []
    for _ in range(n_groups):
        blocks = [d.chain(2) for _ in range(n)]
        mean = d.tree([d.add(b) for b in blocks], 4)
        ends += [d.add(d.add(b, mean)) for b in blocks]
    return d.tasks, [d.tree(ends, 4)]


def moments(n: int) -> Shape:
    """Two reductions of the same blocks, joined at the end."""
    d = Drawing()
    blocks = [d.add() for _ in range(n)]
    sums = d.tree([d.add(b) for b in blocks], 4)
    squares = d.tree([d.add(b) for b in blocks], 4)
    return d.tasks, [d.add(sums, squares)]


def gram(n_rows: int, n_columns: int) -> Shape:
    """The blocks of X'X, each a sum over the rows of X."""
    d = Drawing()
    x = [[d.add() for _ in range(n_columns)] for _ in range(n_rows)]
    outputs = []
    for i in range(n_columns):
        for j in range(n_columns):
            outputs.append(d.tree([d.add(row[i], row[j]) for row in x], 4))
    return d.tasks, outputs


def regression(n: int) -> Shape:
    """X'X and X'y over blocks of rows, solved, and the residuals of each block."""
    d = Drawing()
    x, y = [d.add() for _ in range(n)], [d.add() for _ in range(n)]
    xx = d.tree([d.add(a) for a in x], 4)
    xy = d.tree([d.add(a, b) for a, b in zip(x, y, strict=True)], 4)
    beta = d.add(xx, xy)
    fitted = [d.add(a, beta) for a in x]
    return d.tasks, [d.tree([d.add(a, b) for a, b in zip(y, fitted, strict=True)], 4)]


def thin_qr(n: int) -> Shape:
    """A QR decomposition of blocks of rows: local ones, one of all Rs, and the Qs."""
    d = Drawing()
    local = [d.chain(2) for _ in range(n)]
    q, r = [d.add(b) for b in local], [d.add(b) for b in local]
    whole = d.add(*r)
    upper = d.add(whole)
    return d.tasks, [*[d.add(a, d.add(whole)) for a in q], upper]


def scan(n: int) -> Shape:
    """Cumulative sums: each block needs the total of those before it."""
    d = Drawing()
    blocks = [d.add() for _ in range(n)]
    total = d.add(blocks[0])
    results = [d.add(blocks[0])]
    for block in blocks[1:]:
        results.append(d.add(block, total))
        total = d.add(total, d.add(block))
    return d.tasks, [d.tree(results, 4)]


def regroup(n: int, n_old: int, n_new: int) -> Shape:
    """Rechunking: pieces of old blocks become new ones, which are reduced."""
    d = Drawing()
    old = [d.add() for _ in range(n // n_old)]
    piece = [d.add(old[i // n_old]) for i in range(n)]
    new = [d.add(*piece[i : i + n_new]) for i in range(0, n, n_new)]
    return d.tasks, [d.tree([d.add(b) for b in new], 4)]


def butterfly(depth: int) -> Shape:
    """As a fast Fourier transform: in each step, blocks at a distance of a power of two meet."""
    d = Drawing()
    level = [d.add() for _ in range(1 << depth)]
    for step in range(depth):
        level = [d.add(level[i], level[i ^ 1 << step]) for i in range(len(level))]
    return d.tasks, level


def lattice(n: int) -> Shape:
    """Dynamic programming: each cell reads the one above and the one to the left."""
    d = Drawing()
    cell: dict[tuple[int, int], int] = {}
    for i in range(n):
        for j in range(n):
            near = [cell[at] for at in ((i - 1, j), (i, j - 1)) if at in cell]
            cell[i, j] = d.add(*near)
    return d.tasks, [cell[n - 1, n - 1]]


def validation(n: int, n_methods: int) -> Shape:
    """Cross-validation: each fold trains on all parts but one and is scored on that one."""
    d = Drawing()
    data = d.add()
    parts = [d.add(data) for _ in range(n)]
    scores = []
    for _ in range(n_methods):
        for i in range(n):
            train = d.add(*[p for j, p in enumerate(parts) if j != i])
            scores.append(d.add(d.add(train), parts[i]))
    return d.tasks, [d.add(*scores)]


def nested(n: int) -> Shape:
    """A cross-validation inside of each fold of another."""
    d = Drawing()
    data = d.add()
    ends = []
    for _ in range(n):
        parts = [d.add(d.add(data)) for _ in range(3)]
        scores = [d.add(d.add(*[p for p in parts if p != q]), q) for q in parts]
        ends.append(d.add(d.add(*scores), data))
    return d.tasks, [d.add(*ends)]


def common(n: int, n_readers: int) -> Shape:
    """Several results that each read all of the inputs, through a step of their own."""
    d = Drawing()
    inputs = [d.chain(2) for _ in range(n)]
    ends = [d.tree([d.add(i) for i in inputs], 4) for _ in range(n_readers)]
    return d.tasks, ends


def broker(n: int) -> Shape:
    """One small task that many read, and long ways beside it."""
    d = Drawing()
    b = d.add()
    ends = [d.add(d.chain(3), d.add(b)) for _ in range(n)]
    ends += [d.add(d.add(b)) for _ in range(n)]
    return d.tasks, ends


def deep_base(n: int) -> Shape:
    """A long chain and many short ones meet, pairwise, at the same task."""
    d = Drawing()
    base = d.chain(n)
    ends = [d.add(base, d.chain(1 + i % 4)) for i in range(n)]
    return d.tasks, [d.tree(ends)]


def joins(n: int) -> Shape:
    """Two tables, split, and every part of one joined with its counterpart of the other."""
    d = Drawing()
    left = [[d.add(t) for _ in range(n)] for t in [d.add() for _ in range(n)]]
    right = [[d.add(t) for _ in range(n)] for t in [d.add() for _ in range(n)]]
    parts = [[d.add(*[row[j] for row in side]) for j in range(n)] for side in (left, right)]
    return d.tasks, [d.tree([d.add(a, b) for a, b in zip(*parts, strict=True)], 4)]


def stencil(n: int, n_steps: int) -> Shape:
    """Blocks in a row that see their neighbours again and again."""
    d = Drawing()
    row = [d.add() for _ in range(n)]
    for _ in range(n_steps):
        row = [d.add(*row[max(i - 1, 0) : i + 2]) for i in range(n)]
    return d.tasks, [d.tree(row, 4)]


def layers(seed: int) -> Shape:
    """Layers of random width, each task reading some of the layer above."""
    draw = random.Random(seed)
    d = Drawing()
    above = [d.add() for _ in range(draw.randint(3, 12))]
    for _ in range(draw.randint(3, 9)):
        n = draw.randint(2, 12)
        above = [d.add(*draw.sample(above, min(len(above), draw.randint(1, 3)))) for _ in range(n)]
    return d.tasks, [d.add(*above)]


SHAPES: dict[str, Shape] = {
    "tree of pairs": tree(64, 2, 1),
    "tree of fours": tree(64, 4, 2),
    "tree of an odd number": tree(45, 3, 3),
    "sum from one end": lopsided(40),
    "merge of chains": merge(40, 3),
    "overlap in a row": overlap(30, False),
    "overlap in a row, reduced": overlap(30, True),
    "overlap in a plane, reduced": overlap_plane(7),
    "three neighbours": neighbours(30),
    "shuffle": shuffle(9, 9, False),
    "shuffle, reduced": shuffle(12, 6, True),
    "two steps": two_steps(32, 4),
    "two steps, in pairs": two_steps(32, 2),
    "anomalies by group": anomalies(5, 8),
    "two moments": moments(40),
    "gram matrix": gram(6, 4),
    "regression": regression(24),
    "thin qr": thin_qr(20),
    "cumulative sums": scan(30),
    "regroup 4 to 6": regroup(96, 4, 6),
    "regroup 6 to 4": regroup(96, 6, 4),
    "butterfly": butterfly(4),
    "lattice": lattice(10),
    "cross-validation": validation(8, 1),
    "cross-validation of methods": validation(5, 4),
    "nested cross-validation": nested(8),
    "common inputs": common(20, 4),
    "broker": broker(10),
    "deep base": deep_base(16),
    "join": joins(6),
    "stencil": stencil(16, 4),
    **{f"layers {seed}": layers(seed) for seed in range(12)},
}


def as_walked(tasks: Tasks, outputs: list[int]) -> Shape:
    """The same graph, numbered as a walk from the outputs meets it, inputs first."""
    number: dict[int, int] = {}
    for output in outputs:
        open_tasks = [(output, iter(tasks[output]))]
        while open_tasks:
            task, inputs = open_tasks[-1]
            below = next((i for i in inputs if i not in number), None)
            if below is None:
                number.setdefault(task, len(number))
                open_tasks.pop()
            else:
                open_tasks.append((below, iter(tasks[below])))
    renumbered = [[number[i] for i in tasks[old]] for old in number]
    return renumbered, [number[output] for output in outputs]


def peak(tasks: Tasks, outputs: list[int], rank: Callable[[int], int], n_workers: int) -> int:
    """The most results that exist at one time and were not asked for."""
    wanted = set(outputs)
    readers: list[list[int]] = [[] for _ in tasks]
    for task, inputs in enumerate(tasks):
        for i in inputs:
            readers[i].append(task)
    n_missing = [len(inputs) for inputs in tasks]
    n_unread = [len(row) for row in readers]
    ready = [(rank(task), task) for task, n in enumerate(n_missing) if n == 0]
    heapq.heapify(ready)
    running: list[tuple[int, int, int]] = []
    n_idle, n_started, n_live, most, now = n_workers, 0, 0, 0, 0
    while ready or running:
        while n_idle and ready:
            n_idle -= 1
            n_started += 1
            heapq.heappush(running, (now + 1, n_started, heapq.heappop(ready)[1]))
        now, _, task = heapq.heappop(running)
        n_idle += 1
        n_live += task not in wanted and n_unread[task] > 0
        most = max(most, n_live)
        for i in tasks[task]:
            n_unread[i] -= 1
            n_live -= n_unread[i] == 0 and i not in wanted
        for reader in readers[task]:
            n_missing[reader] -= 1
            if n_missing[reader] == 0:
                heapq.heappush(ready, (rank(reader), reader))
    return most


def main() -> None:
    """Write all shapes and figures to standard output."""
    out = sys.stdout
    out.write(f"# Written by benches/peers/dask_order.py with Dask {dask.__version__}.\n")
    out.write("# name | most results alive with 1, 2, 4 workers | wanted tasks | inputs of each task\n")
    for name, (drawn, ends) in SHAPES.items():
        tasks, outputs = as_walked(drawn, ends)
        graph = {task: (sum, inputs) for task, inputs in enumerate(tasks)}
        ranks = order(graph)
        peaks = [peak(tasks, outputs, ranks.__getitem__, n) for n in (1, 2, 4)]
        rows = ";".join(" ".join(map(str, row)) for row in tasks)
        out.write(f"{name}|{' '.join(map(str, peaks))}|{' '.join(map(str, outputs))}|{rows}\n")


if __name__ == "__main__":
    main()
