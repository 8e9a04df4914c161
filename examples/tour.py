"""A tour of manyhands: the programs of a statistician's week, serially and in parallel, in one table.

Run it with ``make demo``, or, where manyhands, NumPy and scikit-learn are installed:

    python examples/tour.py                          # everything, under two minutes on two cores
    python examples/tour.py --quick                  # a tenth of the work
    python examples/tour.py --only 3 --scheduler threads

Each program below is a pair: a plain Python loop, and the same with manyhands. Neither says where it
runs: one line, `mh.config.set(scheduler=...)`, does. The data are real, from the
sets inside scikit-learn's wheel: diabetes (442 patients), breast cancer (569 tumours), digits (1797
images). Where a program draws random numbers, each task has its own seed, so that every scheduler must
give exactly the serial results, to the last bit.
"""

import argparse
import os
import sys
import time

import manyhands as mh

# One BLAS and OpenMP thread everywhere, serial loop included: what the table compares is one core
# against several, not one kind of threads against another. The libraries read this when NumPy is
# imported, and manyhands counts OMP_NUM_THREADS among the limits it respects: hence the order.
WORKERS = mh.config.get("num_workers") or mh.cpu_count()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge  # noqa: E402
from sklearn.metrics import r2_score  # noqa: E402
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score  # noqa: E402
from sklearn.neighbors import KNeighborsRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.tree import DecisionTreeRegressor  # noqa: E402

SCHEDULERS = ("synchronous", "threads", "processes")

DIABETES = load_diabetes(scaled=False)
CANCER = load_breast_cancer()
DIGITS = load_digits()


class Program:
    """One row of the table: the same work as a plain loop and with manyhands."""

    def __init__(self, number, title, serial, parallel, n_tiny_tasks=0):
        self.number = number
        self.title = title
        self.serial = serial
        self.parallel = parallel
        self.n_tiny_tasks = n_tiny_tasks


# ---------------------------------------------------------------------------------------------
# 1. Three different models at once


def forest(n_trees):
    model = RandomForestClassifier(n_trees, random_state=1)
    return cross_val_score(model, DIGITS.data, DIGITS.target, cv=3).tolist()


def boosting(n_stages):
    model = GradientBoostingClassifier(n_estimators=n_stages, random_state=1)
    return cross_val_score(model, CANCER.data, CANCER.target, cv=3).tolist()


def vector_machine(n_costs):
    # Without a random_state, it draws from NumPy's global state, which is reported: see UndeclaredRandomWarning.
    models = [SVC(C=cost, gamma=1e-3, random_state=1) for cost in np.logspace(-1, 2, n_costs)]
    return [cross_val_score(model, DIGITS.data, DIGITS.target, cv=3).mean() for model in models]


def three_models(scale):
    n_trees, n_stages, n_costs = scale(50), scale(60), scale(4)

    def serial():
        return forest(n_trees), boosting(n_stages), vector_machine(n_costs)

    def parallel():
        return mh.compute(
            mh.delayed(forest)(n_trees),
            mh.delayed(boosting)(n_stages),
            mh.delayed(vector_machine)(n_costs),
        )

    return [Program("1", "three different models at once", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# 2. Cross-validation as a parallel map


def accuracy(train, test, n_stages):
    model = GradientBoostingClassifier(n_estimators=n_stages, random_state=2)
    model.fit(CANCER.data[train], CANCER.target[train])
    return model.score(CANCER.data[test], CANCER.target[test])


def cross_validation(scale):
    n_stages = scale(45)
    folds = StratifiedKFold(10, shuffle=True, random_state=2).split(CANCER.data, CANCER.target)
    trains, tests = zip(*folds)

    def serial():
        return [accuracy(train, test, n_stages) for train, test in zip(trains, tests)]

    def parallel():
        return mh.map(accuracy, trains, tests, [n_stages] * 10)

    return [Program("2", "10-fold cross-validation as a map", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# 3. Four slow tasks and twelve fast ones, in three orders


def held_out_accuracy(n_trees):
    model = RandomForestClassifier(n_trees, random_state=3)
    model.fit(DIGITS.data[:1200], DIGITS.target[:1200])
    return model.score(DIGITS.data[1200:], DIGITS.target[1200:])


def uneven(scale):
    slow, fast = scale(88), scale(11)
    orders = {
        "slow first": [slow] * 4 + [fast] * 12,
        "slow last": [fast] * 12 + [slow] * 4,
        "mixed": [fast, fast, slow, fast] * 4,
    }

    def program(letter, order):
        sizes = orders[order]

        def serial():
            return [held_out_accuracy(n_trees) for n_trees in sizes]

        def parallel():
            return mh.map(held_out_accuracy, sizes)

        return Program("3" + letter, f"4 slow, 12 fast forests: {order}", serial, parallel)

    return [program(letter, order) for letter, order in zip("abc", orders)]


# ---------------------------------------------------------------------------------------------
# 4. Ten folds by thirty methods: nested loops, one flat graph


def methods():
    """Thirty regressions: three penalties, neighbours, trees, and boosting, each with five settings."""
    yield from (make_pipeline(StandardScaler(), Ridge(alpha)) for alpha in (0.1, 1, 10, 100, 1000))
    yield from (make_pipeline(StandardScaler(), Lasso(alpha, random_state=4)) for alpha in (0.1, 0.3, 1, 3, 10))
    yield from (make_pipeline(StandardScaler(), ElasticNet(alpha, random_state=4)) for alpha in (0.1, 0.3, 1, 3, 10))
    yield from (make_pipeline(StandardScaler(), KNeighborsRegressor(k)) for k in (3, 5, 10, 20, 40))
    yield from (DecisionTreeRegressor(max_depth=depth, random_state=4) for depth in (1, 2, 3, 4, 5))
    yield from (GradientBoostingRegressor(n_estimators=n, random_state=4) for n in (5, 10, 15, 20, 30))


def fit_and_score(method, train, test):
    # Threads share their arguments: a task that changes one works on a copy of its own.
    method = clone(method)
    method.fit(DIABETES.data[train], DIABETES.target[train])
    return r2_score(DIABETES.target[test], method.predict(DIABETES.data[test]))


def mean(values):
    return sum(values) / len(values)


def folds_by_methods(scale):
    folds = list(KFold(10, shuffle=True, random_state=4).split(DIABETES.data))[: scale(10)]

    def serial():
        return [mean([fit_and_score(method, *fold) for fold in folds]) for method in methods()]

    def parallel():
        score, average = mh.delayed(fit_and_score), mh.delayed(mean)
        table = [average([score(method, *fold) for fold in folds]) for method in methods()]
        (means,) = mh.compute(table)
        return means

    return [Program("4", "10 folds x 30 methods, flattened", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# 5. Eight analyses of one array of 381 MiB


def share_positive(x):
    return np.count_nonzero(x > 0) / x.size


def serial_dependence(x):
    return np.dot(x[1:], x[:-1]) / np.dot(x, x)


ANALYSES = [np.mean, np.var, np.min, np.max, np.median, np.linalg.norm, share_positive, serial_dependence]


def one_large_array(scale):
    # 50 million doubles: the pixels of all digits, one image after the other, again and again.
    pixels, n = DIGITS.data.ravel(), scale(50_000_000)

    def serial():
        array = np.resize(pixels, n)
        return [float(analysis(array)) for analysis in ANALYSES]

    def parallel():
        array = mh.delayed(np.resize)(pixels, n)  # eight tasks need it; it is made once
        (results,) = mh.compute([mh.delayed(analysis)(array) for analysis in ANALYSES])
        return [float(result) for result in results]

    # The first use of so much memory is slow on many machines; without this the serial loop would pay for it.
    np.var(np.resize(pixels, n))
    return [Program("5", f"8 analyses of one {8 * n / 2**20:.0f} MiB array", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# 6. A simulation study: does a bootstrap interval cover the mean of a skewed distribution?


def covers(seed, n_draws=2000, n=40):
    rng = np.random.default_rng(seed)
    sample = rng.lognormal(size=n)
    means = sample[rng.integers(0, n, (n_draws, n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return bool(low <= np.exp(0.5) <= high)


def simulation(scale):
    # A stream for each replicate, keyed by its index: no worker count, order or batch can change it.
    seeds = np.random.SeedSequence(2024).spawn(scale(1000))

    def serial():
        return [covers(seed) for seed in seeds]

    def parallel():
        return mh.map(covers, seeds)

    return [Program("6", f"simulation study, {len(seeds)} replicates", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# 7. A tree reduction with 2^14 leaves, and a merge of 10 000 into one


def moments(block):
    """Count, mean and sum of squared deviations of the block-th seven pixels."""
    x = DIGITS.data.ravel()[7 * block : 7 * block + 7]
    average = x.mean()
    return len(x), float(average), float(((x - average) ** 2).sum())


def combine(a, b):
    """The moments of two samples together, from the moments of each."""
    n = a[0] + b[0]
    shift = b[1] - a[1]
    return n, a[1] + shift * b[0] / n, a[2] + b[2] + shift**2 * a[0] * b[0] / n


def largest(many):
    return max(many, key=lambda each: each[2])


def reduce_pairwise(combine_two, values):
    while len(values) > 1:
        values = [combine_two(a, b) for a, b in zip(values[::2], values[1::2])]
    return values[0]


def tree_and_merge(scale):
    n_leaves = 2 ** int(np.log2(scale(2**14)))
    n_merged = scale(10_000)

    def tree_serial():
        return reduce_pairwise(combine, [moments(block) for block in range(n_leaves)])

    def tree():
        leaf = mh.delayed(moments)
        (result,) = mh.compute(reduce_pairwise(mh.delayed(combine), [leaf(block) for block in range(n_leaves)]))
        return result

    def merge_serial():
        return largest([moments(block) for block in range(n_merged)])

    def merge():
        leaf = mh.delayed(moments)
        (result,) = mh.compute(mh.delayed(largest)([leaf(block) for block in range(n_merged)]))
        return result

    return [
        Program("7a", f"tree reduction, {n_leaves} leaves", tree_serial, tree, 2 * n_leaves - 1),
        Program("7b", f"merge of {n_merged} tasks into one", merge_serial, merge, n_merged + 1),
    ]


# ---------------------------------------------------------------------------------------------
# 8. A bootstrap of a logistic regression


def odds_ratios(seed):
    rows = np.random.default_rng(seed).integers(0, len(CANCER.target), len(CANCER.target))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(CANCER.data[rows, :10], CANCER.target[rows])
    return np.exp(model[-1].coef_[0]).tolist()


def bootstrap(scale):
    seeds = np.random.SeedSequence(8).spawn(scale(300))

    def serial():
        return [odds_ratios(seed) for seed in seeds]

    def parallel():
        return mh.map(odds_ratios, seeds)

    return [Program("8", f"bootstrap of a logistic model, {len(seeds)}x", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# 9. A stratified analysis: is the body mass index associated with progression, within each stratum?


def permutation_test(stratum, seed, n_permutations):
    index, progression = DIABETES.data[stratum, 2], DIABETES.target[stratum]
    index = index - index.mean()
    rng = np.random.default_rng(seed)
    observed = abs(index @ progression)
    n_extreme = sum(abs(index @ rng.permutation(progression)) >= observed for _ in range(n_permutations))
    return len(progression), (1 + int(n_extreme)) / (1 + n_permutations)


def stratified(scale):
    n_permutations = scale(25_000)
    age, sex = DIABETES.data[:, 0], DIABETES.data[:, 1]
    age_group = np.digitize(age, np.quantile(age, [0.2, 0.4, 0.6, 0.8]))
    strata = {
        f"sex {s:.0f}, age group {a}": np.flatnonzero((sex == s) & (age_group == a))
        for s in np.unique(sex)
        for a in range(5)
    }
    seeds = dict(zip(strata, np.random.SeedSequence(9).spawn(len(strata))))

    def serial():
        return {name: permutation_test(strata[name], seeds[name], n_permutations) for name in strata}

    def parallel():
        test = mh.delayed(permutation_test)
        (results,) = mh.compute({name: test(strata[name], seeds[name], n_permutations) for name in strata})
        return results

    return [Program("9", f"stratified analysis, {len(strata)} strata", serial, parallel)]


# ---------------------------------------------------------------------------------------------
# The table

CHAPTERS = {
    1: three_models,
    2: cross_validation,
    3: uneven,
    4: folds_by_methods,
    5: one_large_array,
    6: simulation,
    7: tree_and_merge,
    8: bootstrap,
    9: stratified,
}


def timed(function):
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def warm_up(scheduler):
    """Start the workers and let each import what the programs use, as a session does once; return seconds."""
    with mh.config.set(scheduler=scheduler, num_workers=WORKERS):
        return timed(lambda: mh.map(held_out_accuracy, [1] * 4 * WORKERS))[0]


def run_program(program, schedulers):
    """Print one row; return the seconds by scheduler and whether all results equal the serial ones."""
    print(f"{program.number:<3}{program.title:<36}", end="", flush=True)
    serial_s, expected = timed(program.serial)
    print(f"{serial_s:7.2f}", end="", flush=True)
    seconds, wrong = {"serial": serial_s}, []
    for scheduler in schedulers:
        with mh.config.set(scheduler=scheduler, num_workers=WORKERS):
            seconds[scheduler], result = timed(program.parallel)
        print(f"{seconds[scheduler]:8.2f}{serial_s / seconds[scheduler]:5.1f}x", end="", flush=True)
        if result != expected:
            wrong.append(scheduler)
    print("   DIFFERENT: " + ", ".join(wrong) if wrong else "   identical")
    return seconds, not wrong


def print_notes(times, programs):
    """What a reader of the table would ask next, answered with this run's figures."""
    tiny = [program for program in programs if program.n_tiny_tasks]
    uneven_rows = [program for program in programs if program.number.startswith("3")]
    if uneven_rows:
        total_s = min(times[program.number]["serial"] for program in uneven_rows)
        bound_s = max(total_s / min(WORKERS, 16), total_s * 8 / (4 * 8 + 12))
        print(f"3  real computing, no sleeping; no order can end before {bound_s:.2f} s on {WORKERS} workers.")
    if any(program.number == "5" for program in programs):
        print("5  one task makes the array, eight read it: on processes it lies in shared memory, once, uncopied.")
    for program in tiny:
        costs = ", ".join(
            f"{name} {1e6 * seconds / program.n_tiny_tasks:.1f}" for name, seconds in times[program.number].items()
        )
        print(f"{program.number} tiny tasks; microseconds for each, all included: {costs}")
    print("Threads gain where the work runs outside the interpreter lock; processes wherever a task outweighs")
    print("the transport of its arguments and result.")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work in each program")
    parser.add_argument("--only", type=int, action="append", choices=CHAPTERS, help="run this program alone")
    parser.add_argument("--scheduler", action="append", choices=SCHEDULERS, help="run on this scheduler alone")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    schedulers = options.scheduler or SCHEDULERS
    begin = time.perf_counter()

    def scale(size):
        return max(1, size // 10) if options.quick else size

    python = sys.version.split()[0]
    print(f"manyhands {mh.__version__}, Python {python}, {WORKERS} workers; BLAS threads: 1 everywhere.")
    print("serial: a plain Python loop without manyhands. Seconds, and how many times faster than serial.")
    starts = ", ".join(f"{scheduler} {warm_up(scheduler):.2f} s" for scheduler in schedulers)
    print(f"start-up, once, with the workers' imports of scikit-learn: {starts}\n")
    print(f"{'program':<39}{'serial':>7}" + "".join(f"{name:>14}" for name in schedulers) + "   results")
    programs, times, all_equal = [], {}, True
    for number in options.only or CHAPTERS:
        for program in CHAPTERS[number](scale):
            times[program.number], equal = run_program(program, schedulers)
            programs.append(program)
            all_equal = all_equal and equal
    print()
    print_notes(times, programs)
    print(
        "identical: every result equals the serial one bit for bit."
        if all_equal
        else "SOME RESULTS DIFFER FROM THE SERIAL ONES: that is a fault of manyhands; please report it."
    )
    print(f"{time.perf_counter() - begin:.0f} s in all")
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
