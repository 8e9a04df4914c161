"""Calls of scikit-learn that take ``n_jobs``: what users of joblib wait for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Run = Callable[[int], Any]
Check = Callable[[Any], None]


@dataclass(frozen=True)
class Job:
    """A call: what it is, and how many times as long as ours it is to take on loky at least."""

    name: str
    reach: float
    prepare: Callable[[int], tuple[str, Run, Check]]
    """By how much sizes are divided, to the size in words, the call by its ``n_jobs``, and what checks its result."""


def _search(model: Any, grid: dict[str, Any], n_rows: int, n_folds: int) -> tuple[Run, Check]:
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV

    features, classes = make_classification(n_samples=n_rows, n_features=20, random_state=0)
    scores: list[Any] = []

    def run(n_jobs: int) -> Any:
        return GridSearchCV(model, grid, cv=n_folds, n_jobs=n_jobs).fit(features, classes)

    def check(found: Any) -> None:
        if not scores:
            scores.extend(run(1).cv_results_["mean_test_score"])
        if list(found.cv_results_["mean_test_score"]) != scores:
            raise AssertionError("the scores of the search are not those of one worker")

    return run, check


def short_fits(shrink: int) -> tuple[str, Run, Check]:
    """Many settings of a model that is fitted in a moment."""
    from sklearn.naive_bayes import GaussianNB

    n = 60 // shrink + 2
    run, check = _search(GaussianNB(), {"var_smoothing": [10.0 ** -(1 + i / 10) for i in range(n)]}, 200, 5)
    return f"{5 * n} fits of 200 rows", run, check


def equal_fits(shrink: int) -> tuple[str, Run, Check]:
    """Few settings of a model whose fits take their time."""
    from sklearn.linear_model import SGDClassifier

    n_rows = 20_000 // shrink + 200
    model = SGDClassifier(max_iter=20, tol=None, random_state=0)
    run, check = _search(model, {"alpha": [0.1, 0.01, 0.001, 0.0001]}, n_rows, 5)
    return f"20 fits of {n_rows:,} rows", run, check


def large_data(shrink: int) -> tuple[str, Run, Check]:
    """A model that is fitted faster than its data travels."""
    from sklearn.naive_bayes import GaussianNB

    n_rows = 400_000 // shrink + 200
    run, check = _search(GaussianNB(), {"var_smoothing": [1e-9, 1e-3]}, n_rows, 3)
    return f"6 fits of {n_rows:,} rows, {n_rows * 160 / 2**20:.0f} MiB", run, check


def _forest(n_trees: int, n_rows: int, **settings: Any) -> tuple[Run, Check]:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    features, classes = make_classification(n_samples=n_rows, n_features=20, random_state=0)
    known: list[Any] = []

    def run(n_jobs: int) -> Any:
        return RandomForestClassifier(n_trees, n_jobs=n_jobs, random_state=0, **settings).fit(features, classes)

    def check(found: Any) -> None:
        if not known:
            known.append(run(1).feature_importances_)
        if not (found.feature_importances_ == known[0]).all() or len(found.estimators_) != n_trees:
            raise AssertionError("the forest is not that of one worker")

    return run, check


def forest(shrink: int) -> tuple[str, Run, Check]:
    """A forest of the usual size."""
    n_rows = 4000 // shrink + 100
    return f"100 trees, {n_rows:,} rows", *_forest(100, n_rows)


def small_trees(shrink: int) -> tuple[str, Run, Check]:
    """Trees that grow in a moment."""
    n_trees = 400 // shrink
    return f"{n_trees} trees, 200 rows", *_forest(n_trees, 200, max_depth=3)


def large_forest(shrink: int) -> tuple[str, Run, Check]:
    """Few shallow trees on large data."""
    n_rows = 400_000 // shrink + 200
    shape = {"max_depth": 2, "max_features": 1, "max_samples": 0.02}
    return f"16 trees, {n_rows:,} rows, {n_rows * 80 / 2**20:.0f} MiB", *_forest(16, n_rows, **shape)


JOBS = {
    "search": Job("GridSearchCV", 1.0, equal_fits),
    "search, short fits": Job("GridSearchCV, short fits", 2.0, short_fits),
    "search, large data": Job("GridSearchCV, large data", 2.0, large_data),
    "forest": Job("RandomForestClassifier", 1.0, forest),
    "forest, small trees": Job("RandomForestClassifier, short fits", 2.0, small_trees),
    "forest, large data": Job("RandomForestClassifier, large data", 2.0, large_forest),
}
