"""Tasks of very different lengths, and how soon they could all be done at best."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benches.workload import sleep_timed, spin_timed

RunMap = Callable[[Callable[[Any], float], list[Any]], list[float]]


@dataclass(frozen=True)
class Plan:
    """Durations of tasks in the order in which they are handed in."""

    name: str
    durations_s: tuple[float, ...]


def few(shrink: int = 1) -> list[Plan]:
    """4 slow and 12 fast tasks in three orders."""
    slow, fast = 0.25 / shrink, 0.02 / shrink
    orders = {
        "slow first": [slow] * 4 + [fast] * 12,
        "slow last": [fast] * 12 + [slow] * 4,
        "every fourth slow": [slow, fast, fast, fast] * 4,
    }
    return [Plan(f"4 slow + 12 fast, {order}", tuple(durations)) for order, durations in orders.items()]


def many(shrink: int = 1) -> list[Plan]:
    """10 000 tasks of 100 µs, four of them 1 s, at different places."""
    n, slow, fast = 10_000 // shrink, 1.0 / shrink, 100e-6
    places = {
        "at the beginning": [0, 1, 2, 3],
        "in the middle": [n // 2 + i for i in range(4)],
        "spread": [n // 10, n * 35 // 100, n * 60 // 100, n * 85 // 100],
        "at the end": [n - 4, n - 3, n - 2, n - 1],
    }
    plans = []
    for place, slow_at in places.items():
        durations = [fast] * n
        for at in slow_at:
            durations[at] = slow
        plans.append(Plan(f"{n:,} × 100 µs, four of {slow:g} s {place}", tuple(durations)))
    return plans


def bound_s(durations_s: list[float], n_workers: int) -> float:
    """The time below which no schedule can come."""
    return max(sum(durations_s) / n_workers, max(durations_s))


def spinning(plan: Plan, run_map: RunMap, turn_s: float) -> list[float]:
    """Run the plan with tasks that compute; return the processor time that each took."""
    return run_map(spin_timed, [round(duration_s / turn_s) for duration_s in plan.durations_s])


def sleeping(plan: Plan, run_map: RunMap) -> list[float]:
    """Run the plan with tasks that sleep; return how long each slept."""
    return run_map(sleep_timed, list(plan.durations_s))
