"""Two levels of parallel calls, and how many CPUs each task may use.

    python examples/nested.py
    MANYHANDS_SCHEDULER=processes,processes python examples/nested.py
    MANYHANDS_NUM_WORKERS=2,4 python examples/nested.py

A cross-validation of several models: folds in processes, and the models of each fold in threads, whose matrix products
run in threads of their own. The three levels together have as many threads as there are CPUs.
"""

import os

import numpy as np

import manyhands as mh

N_ROWS, N_COLUMNS = 600, 60


def fit(x, y, penalty):
    """The squared error of a ridge regression, on the rows it was not fitted to."""
    half = len(x) // 2
    inner = x[:half].T @ x[:half] + penalty * np.eye(x.shape[1])
    coefficients = np.linalg.solve(inner, x[:half].T @ y[:half])
    return float(np.mean((y[half:] - x[half:] @ coefficients) ** 2))


def fold(number, penalties, rng):
    x = rng.normal(size=(N_ROWS, N_COLUMNS))
    y = x @ rng.normal(size=N_COLUMNS) + rng.normal(size=N_ROWS)
    # The next level of the plan: nothing here says where it runs.
    errors = mh.map(fit, [x] * len(penalties), [y] * len(penalties), penalties)
    return number, os.getpid(), penalties[int(np.argmin(errors))]


def main():
    # What the environment and files say comes first, as with any setting that is not made in the program.
    plan = mh.config.get("scheduler", default=("processes", "threads"))
    numbers = mh.config.get("num_workers", default=(2, max(1, mh.cpu_count() // 2)))
    folds = mh.map(fold, range(4), [[0.1, 1.0, 10.0]] * 4, scheduler=plan, num_workers=numbers, seed=1)
    print(f"plan {plan}, workers {numbers}, {mh.cpu_count()} CPUs")
    for number, pid, penalty in folds:
        print(f"fold {number}: best penalty {penalty}, in process {pid}")
    assert folds[0][2] in (0.1, 1.0, 10.0)

    with mh.blas_threads(1) as libraries:
        print("libraries held to one thread:", ", ".join(sorted({library.name for library in libraries})) or "none")


if __name__ == "__main__":
    main()
