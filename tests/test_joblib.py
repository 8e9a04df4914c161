"""joblib and scikit-learn on manyhands."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import scripts

joblib = pytest.importorskip("joblib")

import manyhands as mh  # noqa: E402
import manyhands.joblib  # noqa: E402 - it needs joblib

manyhands.joblib.register()

PARALLEL = ["threads", "processes", "fork"]


def square(x):
    return x * x


def invert(x):
    return 1 / x


def pid(_=None):
    return os.getpid()


@pytest.fixture(params=PARALLEL)
def there(request):
    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler=request.param):
        yield request.param


def run(function, items, **options):
    return joblib.Parallel(**options)(joblib.delayed(function)(item) for item in items)


def test_calls_run_where_they_should(there):
    assert run(square, range(20)) == [i * i for i in range(20)]
    assert (os.getpid() in run(pid, range(4))) == (there == "threads")


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(return_as, there):
    results = run(square, range(20), return_as=return_as)
    assert sorted(results) == [i * i for i in range(20)]


def test_errors_are_those_of_the_calls_and_the_next_call_works(there):
    with pytest.raises(ZeroDivisionError):
        run(invert, [1, 2, 0, 4])
    assert run(square, range(5)) == [0, 1, 4, 9, 16]


def test_a_timeout_ends_what_runs(tmp_path):
    def note_and_wait(path):
        (path / str(os.getpid())).touch()
        scripts.until((path / "never").exists, "never")

    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler="processes"):
        with pytest.raises(Exception) as caught:
            run(note_and_wait, [tmp_path] * 2, timeout=2)
        assert "Timeout" in type(caught.value).__name__
        for begun in os.listdir(tmp_path):
            scripts.until(lambda begun=begun: not scripts.is_alive(int(begun)), "the worker has ended")
        assert run(square, range(5)) == [0, 1, 4, 9, 16]


def test_calls_inside_of_calls(there):
    def outer(x):
        return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(square)(i) for i in range(x)))

    assert run(outer, range(5)) == [0, 0, 1, 5, 14]

    def explicit(x):
        return sum(joblib.Parallel(n_jobs=2, backend="manyhands")(joblib.delayed(square)(i) for i in range(x)))

    assert run(explicit, range(5)) == [0, 0, 1, 5, 14]


def test_the_configuration_says_where_unless_the_call_does():
    with mh.config.set(scheduler="threads", num_workers=3), joblib.parallel_config(backend="manyhands"):
        assert joblib.effective_n_jobs(-1) == 3
        assert joblib.effective_n_jobs(-2) == 2
        assert set(run(pid, range(4))) == {os.getpid()}
        assert os.getpid() not in run(pid, range(4), scheduler="processes")
    with pytest.raises(mh.ConfigError, match="scheduler='thread' is not a scheduler"):
        joblib.parallel_config(backend="manyhands", scheduler="thread")
    with joblib.parallel_config(backend="manyhands", scheduler="threads"):
        # Where arguments must be shared, threads do; processes do not, and joblib's own threads take their place.
        seen = []
        run(seen.append, range(10), require="sharedmem")
        assert sorted(seen) == list(range(10))


def test_large_arrays_are_copied_once_into_memory_that_may_be_written_to(counted, tmp_path):
    def write(array):
        assert not isinstance(array, np.memmap)
        array[0] += 1
        return float(array[0]), float(array[-1])

    data = np.zeros(1_000_000)
    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler="processes", temp_folder=str(tmp_path)):
        assert run(write, [data] * 8) == [(1.0, 0.0)] * 8
    assert data[0] == 0
    n_made, n_avoided = counted()
    assert (n_made, n_avoided) == (1, 7)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("batch_size", ["auto", 5])
def test_calls_sent_together_write_to_arrays_of_their_own(batch_size):
    def write(array, same, other):
        array[0] += 1
        return float(array[0]), array is same, float(other[0])

    small = np.zeros(100)
    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler="processes"):
        calls = (joblib.delayed(write)(small, small, other=np.ones(3)) for _ in range(200))
        assert joblib.Parallel(batch_size=batch_size)(calls) == [(1.0, True, 1.0)] * 200
    assert small[0] == 0


class Counter:
    def __init__(self):
        self.numbers = np.zeros(3)

    def count(self):
        self.numbers[0] += 1
        return float(self.numbers[0])


def count_in(place):
    if isinstance(place, Counter):
        return place.count()
    if hasattr(place, "columns"):
        place.iloc[0, 0] += 1
        return float(place.iloc[0, 0])
    array = place
    while not isinstance(array, np.ndarray):
        array = next(iter(array.values())) if isinstance(array, dict) else array[0]
    array[0] += 1
    return float(array[0])


PLACES = {
    "a list": lambda: [np.zeros(3)],
    "a dict": lambda: {"x": np.zeros(3)},
    "deep inside": lambda: [({"x": [np.zeros(3)]},)],
    "an object": Counter,
    "a table": lambda: pytest.importorskip("pandas").DataFrame({"x": [0.0, 1.0]}),
}


@pytest.mark.parametrize("place", PLACES)
def test_calls_sent_together_write_to_what_is_their_own_wherever_that_is(place):
    shared = PLACES[place]()
    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler="processes"):
        assert run(count_in, [shared] * 20, batch_size=5) == [1.0] * 20
        assert joblib.Parallel(batch_size=5)(joblib.delayed(count_in)(place=shared) for _ in range(20)) == [1.0] * 20
        if isinstance(shared, Counter):
            # What a method belongs to is an argument, too.
            assert joblib.Parallel(batch_size=5)(joblib.delayed(shared.count)() for _ in range(20)) == [1.0] * 20
        enclosed = joblib.delayed(lambda: count_in(shared))
        assert joblib.Parallel(batch_size=5)(enclosed() for _ in range(20)) == [1.0] * 20
    assert count_in(shared) == 1.0


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.parametrize("configured", ["threads", "processes", None])
def test_a_call_that_says_where_it_runs_shares_what_is_shared_there(scheduler, configured):
    shared = np.zeros(3)
    with mh.config.set({} if configured is None else {"scheduler": configured}):
        seen = joblib.Parallel(n_jobs=2, backend="manyhands", scheduler=scheduler, batch_size=5)(
            joblib.delayed(count_in)(shared) for _ in range(20)
        )
    assert shared[0] == (20 if scheduler == "threads" else 0)
    if scheduler == "processes":
        assert seen == [1.0] * 20


def test_where_one_call_runs_is_not_where_the_next_does():
    with mh.config.set(num_workers=2), joblib.parallel_config(backend="manyhands", scheduler="threads"):
        assert os.getpid() not in run(pid, range(4), scheduler="processes")
        assert run(pid, range(4)) == [os.getpid()] * 4
        shared = np.zeros(3)
        run(count_in, [shared] * 20, batch_size=5)
        assert shared[0] == 20


@pytest.mark.parametrize("n_numbers", [1000, 1_000_000])
@pytest.mark.parametrize("place", ["a list", "an object", "a table"])
def test_calls_with_arrays_inside_of_others_are_sent_several_at_once_where_these_are_small(place, n_numbers):
    sizes = set()
    inside = {
        "a list": lambda: [np.zeros(n_numbers)],
        "an object": Counter,
        "a table": lambda: pytest.importorskip("pandas").DataFrame({"x": np.zeros(n_numbers)}),
    }[place]()
    if isinstance(inside, Counter):
        inside.numbers = np.zeros(n_numbers)
    with joblib.Parallel(n_jobs=2, backend="manyhands", scheduler="processes") as parallel:
        compute = parallel._backend.compute_batch_size
        parallel._backend.compute_batch_size = lambda: sizes.add(compute()) or compute()
        assert parallel(joblib.delayed(count_in)(inside) for _ in range(300)) == [1.0] * 300
    assert (sizes == {1}) == (n_numbers == 1_000_000)


@pytest.mark.parametrize("n_numbers", [1000, 1_000_000])
def test_calls_with_arrays_are_sent_several_at_once_where_these_are_small(n_numbers):
    sizes = set()
    data = np.zeros(n_numbers)
    with joblib.Parallel(n_jobs=2, backend="manyhands", scheduler="processes") as parallel:
        compute = parallel._backend.compute_batch_size
        parallel._backend.compute_batch_size = lambda: sizes.add(compute()) or compute()
        assert parallel(joblib.delayed(np.size)(data) for _ in range(300)) == [n_numbers] * 300
    if n_numbers == 1_000_000:
        assert sizes == {1}
    else:
        assert max(sizes) > 1


def test_many_short_calls_are_sent_several_at_once():
    sizes = set()
    with joblib.Parallel(n_jobs=2, backend="manyhands", scheduler="threads") as parallel:
        compute = parallel._backend.compute_batch_size
        parallel._backend.compute_batch_size = lambda: sizes.add(compute()) or compute()
        assert parallel(joblib.delayed(square)(i) for i in range(3000)) == [i * i for i in range(3000)]
    assert max(sizes) > 1


def test_initializers():
    state = threading.local()

    def begin(value):
        os.environ["MANYHANDS_TEST_STATE"] = value

    def look(_):
        return os.environ.get("MANYHANDS_TEST_STATE")

    del state
    options = {"initializer": begin, "initargs": ("ready",)}
    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler="processes", **options):
        assert run(look, range(10)) == ["ready"] * 10
    assert "MANYHANDS_TEST_STATE" not in os.environ


def test_an_initializer_is_called_also_where_there_is_one_worker():
    begun = []
    with joblib.parallel_config(backend="manyhands", initializer=begun.append, initargs=("ready",)):
        assert run(lambda _: list(begun), range(3), n_jobs=1) == [["ready"]] * 3
        with mh.config.set(num_workers=1):
            assert run(lambda _: list(begun), [0]) == [["ready"] * 2]
    assert joblib.Parallel(n_jobs=1, backend="manyhands", initializer=begun.clear)([joblib.delayed(len)(begun)]) == [0]


# scikit-learn


@pytest.fixture(scope="module")
def data():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    return sklearn_datasets.make_classification(n_samples=300, n_features=8, random_state=0)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_scikit_learn_finds_the_same(data, scheduler):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_predict

    features, classes = data

    def found(n_jobs):
        forest = RandomForestClassifier(n_estimators=12, random_state=0, n_jobs=n_jobs).fit(features, classes)
        search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0, 10.0]}, cv=3, n_jobs=n_jobs).fit(features, classes)
        predicted = cross_val_predict(LogisticRegression(), features, classes, cv=3, n_jobs=n_jobs)
        return forest.predict_proba(features), search.cv_results_["mean_test_score"], search.best_params_, predicted

    with joblib.parallel_config(backend="sequential"):
        expected = found(None)
    with joblib.parallel_config(backend="manyhands", scheduler=scheduler):
        for ours, theirs in zip(found(2), expected):
            np.testing.assert_equal(ours, theirs)


def test_models_inside_of_searches(data):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    forest = RandomForestClassifier(n_estimators=4, random_state=0, n_jobs=2)
    with joblib.parallel_config(backend="manyhands", scheduler="processes"):
        search = GridSearchCV(forest, {"max_depth": [2, 3]}, cv=2, n_jobs=2).fit(*data)
    assert search.best_score_ > 0.5


PROGRAM = """
import joblib, manyhands.joblib
manyhands.joblib.register(make_default=True)
def square(x):
    return x * x
print(joblib.Parallel(n_jobs=2)(joblib.delayed(square)(i) for i in range(5)))
print(type(joblib.parallel.get_active_backend()[0]).__module__)
"""


def test_a_program_needs_no_guard_and_no_name(tmp_path):
    scripts.check(scripts.run(tmp_path, PROGRAM), "[0, 1, 4, 9, 16]\nmanyhands.joblib\n")


def test_calls_that_hold_many_objects_are_not_looked_through_one_by_one(monkeypatch):
    """scikit-learn sends an account of all calls along with each: to look through it took longer than the call."""
    n_seen = 0
    look = manyhands.joblib._n_bytes_of

    def counting(obj):
        nonlocal n_seen
        n_seen += 1
        return look(obj)

    monkeypatch.setattr(manyhands.joblib, "_n_bytes_of", counting)
    account = [[[i] for i in range(20)] for _ in range(100)]
    n_calls = 60
    with joblib.parallel_config(backend="manyhands", n_jobs=2, scheduler="processes"):
        assert run(len, [account] * n_calls, batch_size=5) == [100] * n_calls
    first = manyhands.joblib._N_FIRST_CALLS + 5  # they come in batches
    assert 0 < n_seen <= first * manyhands.joblib._N_OBJECTS_MAX + n_calls * manyhands.joblib._N_OBJECTS_MAX_LATER


def test_what_a_search_says_of_itself_is_not_copied_for_each_call():
    parallel = pytest.importorskip("sklearn.utils.parallel")

    class Account:
        """Stands for scikit-learn's, which is of a private class."""

    Account.__module__ = "sklearn.callback._somewhere"
    account, own = Account(), [1]
    around = parallel._FuncWrapper(count_in)
    function, args, kwargs = manyhands.joblib._copied((around, (account, own), {"account": account}))
    assert function is around
    assert args[0] is account is kwargs["account"]
    assert args[1] == own
    assert args[1] is not own
    # A function that holds something is copied with it.
    bound = parallel._FuncWrapper(own.append)
    assert manyhands.joblib._copied((bound, (), {}))[0] is not bound
