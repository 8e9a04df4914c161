"""Large buffers travel through shared memory: one copy, never stale, seen by nobody else."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from scripts import PATIENCE_S, shared_info, until

import manyhands as mh

N = 100_000  # doubles: above the threshold
PLACES = {"scheduler": "processes", "num_workers": 2}


def run(program):
    """What a program of its own prints, which is all that it says."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def total(x, *_):
    return float(np.sum(x))


def identity(x):
    return x


# One copy


def test_eight_tasks_over_one_array_make_one_copy(counted):
    data = np.arange(float(N))
    tasks = [mh.delayed(total)(data, i) for i in range(8)]
    assert mh.compute(tasks, **PLACES) == ([data.sum()] * 8,)
    assert counted() == (1, 7)


def test_an_unchanged_array_is_recognised_the_next_time(counted):
    data = np.arange(float(N))
    for _ in range(3):
        assert mh.map(total, [data] * 4, **PLACES) == [data.sum()] * 4
    assert counted() == (1, 11)


def test_views_of_one_array_are_recognised_as_well(counted):
    data = np.arange(float(2 * N)).reshape(2, N)
    for _ in range(2):
        assert mh.map(total, [data[0], data[1], data.T], **PLACES) == [data[0].sum(), data[1].sum(), data.sum()]
    assert counted() == (3, 3)


@pytest.mark.parametrize("at", [0, N // 2, N - 1])
def test_a_change_of_one_byte_between_calls_is_seen(at):
    data = np.zeros(8 * N, np.uint8)
    for value in range(1, 4):
        data[8 * at + 3] = value
        assert mh.map(total, [data] * 3, **PLACES) == [value] * 3


def test_a_change_between_items_of_a_generator_is_seen():
    data = np.zeros(N)

    def items():
        for value in range(5):
            data[N - 1] = value
            yield data

    assert mh.map(total, items(), **PLACES) == [0, 1, 2, 3, 4]
    assert list(mh.stream(total, items(), **PLACES)) == [0, 1, 2, 3, 4]


def test_a_change_between_items_of_a_stream_over_a_list_is_seen():
    data = np.zeros(N)
    results = []
    with mh.config.set(scheduler="processes", num_workers=2):
        stream = mh.stream(total, [data] * 100_000, buffersize=2)
        for value in range(1, 20):
            results.append(next(stream))
            data[0] = value
        stream.close()
    # Items are taken ahead, so a change shows a little later, and never again goes back.
    assert results == sorted(results)
    assert results[-1] > 0


def test_a_change_between_submitted_calls_is_seen():
    data = np.zeros(N)
    with mh.config.set(scheduler="processes", num_workers=2):
        futures = []
        for value in range(5):
            data[7] = value
            futures.append(mh.submit(total, data))
        assert [future.result(PATIENCE_S) for future in futures] == [0, 1, 2, 3, 4]


def test_memory_that_is_used_again_is_another_array():
    results = []
    for value in range(10):
        data = np.full(N, float(value))  # where the last one was, as a rule
        results += mh.map(total, [data], **PLACES)
        del data
    assert results == [value * N for value in range(10)]


class Doubling:
    """Pickles as a new array each time; the memory of the last is free again."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return identity, (np.full(N, 2.0 * self.value),)


def test_arrays_made_while_pickling_are_not_mixed_up():
    assert mh.map(total, [Doubling(value) for value in range(10)], **PLACES) == [2 * v * N for v in range(10)]


def test_what_is_passed_is_copied_no_longer_than_it_lives():
    before = shared_info()
    data = np.arange(float(N))
    mh.map(total, [data], **PLACES)
    assert mh.shared.info().n_bytes >= before.n_bytes + data.nbytes
    del data
    assert mh.shared.info().n_bytes <= before.n_bytes


def test_results_that_are_passed_on_are_copied_no_longer_than_they_live():
    before = shared_info()
    results = mh.map(make, range(10), **PLACES)
    for _ in range(2):
        assert mh.map(total, results, **PLACES) == [value * N for value in range(10)]
    assert mh.shared.info().n_bytes_copied - before.n_bytes_copied <= 2 * 10 * 8 * N
    del results
    assert mh.shared.info().n_bytes <= before.n_bytes


def test_copies_whose_originals_cannot_tell_of_their_end_do_not_pile_up():
    before = shared_info().n_bytes
    for value in range(12):
        assert mh.map(len, [bytes([value]) * (40 << 20)], **PLACES) == [40 << 20]
    assert mh.shared.info().n_bytes - before <= 256 << 20


def test_a_generator_of_new_arrays_does_not_pile_them_up():
    peak = 0

    def arrays():
        nonlocal peak
        for value in range(400):
            peak = max(peak, mh.shared.info().n_bytes)
            yield np.full(10 * N, float(value))

    assert mh.map(total, arrays(), **PLACES) == [value * 10 * N for value in range(400)]
    assert peak < 350 << 20  # of 3 GiB


class Fresh:
    """Pickles as new memory each time, and notes how much there is of shared memory by then."""

    peak = 0

    def __init__(self, make, n):
        self.make = make
        self.n = n

    def __reduce__(self):
        Fresh.peak = max(Fresh.peak, mh.shared.info().n_bytes)
        return identity, (self.make(self.n),)


@pytest.mark.parametrize("make", [np.ones, lambda n: pickle.PickleBuffer(bytes(8 * n))])
def test_a_list_whose_items_pickle_as_new_memory_does_not_pile_it_up(make):
    Fresh.peak = 0
    # Of different lengths, or one would be told from the next by its place alone.
    lengths = [10 * N + i for i in range(150)]
    assert mh.map(len, [Fresh(make, n) for n in lengths], **PLACES) == [len(memoryview(make(n))) for n in lengths]
    assert Fresh.peak < 600 << 20  # of 1.2 GB


# Isolation


def spoil(x, value):
    before = x.sum()
    x[:] = value
    return float(before)


@pytest.mark.parametrize("is_born_shared", [False, True])
def test_what_a_task_writes_to_its_argument_nobody_sees(is_born_shared):
    data = mh.shared.asarray(np.ones(N)) if is_born_shared else np.ones(N)
    with mh.config.set(**PLACES):
        for _ in range(2):
            assert mh.map(spoil, [data] * 20, range(20)) == [N] * 20
            assert (data == 1).all()


def test_an_argument_named_twice_is_one_array():
    def write_first(a, b):
        a[0] = 7
        return b[0], a is b

    data = np.ones(N)
    assert mh.map(write_first, [data], [data], **PLACES) == [(7, True)]
    assert data[0] == 1


def test_a_read_only_array_stays_read_only():
    data = np.ones(N)
    data.flags.writeable = False
    assert mh.map(lambda x: x.flags.writeable, [data, data.copy()], **PLACES) == [False, True]


def stash(x, value):
    import manyhands._worker as place  # a module of the worker's own, to keep things in

    kept = place.__dict__.setdefault("_kept", [])
    kept.append((x, value))
    return os.getpid(), all((array == number).all() for array, number in kept)


def test_what_a_task_has_kept_stays_as_it_was():
    with mh.config.set(scheduler="processes", num_workers=1):
        for value in range(12):
            # The memory of each is free for the next when its task is done.
            assert mh.map(stash, [np.full(N, value), np.full(N, -value)], [value, -value])[0][1]
    mh.shutdown()


def unmap_and_keep(x):
    import ctypes

    import manyhands._worker as place

    place.__dict__.setdefault("_kept", []).append(x)
    unmap = ctypes.CDLL(None).munmap
    unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return unmap(x.ctypes.data & -4096, 4096)


def test_a_worker_that_cannot_keep_what_a_task_has_kept_ends():
    """The parent uses the memory again: better no worker than one in which an array changes by itself."""
    with pytest.raises(mh.WorkerDied, match="kept a reference to its argument, of 800000 bytes"):
        mh.map(unmap_and_keep, [np.ones(N)], **PLACES)
    assert mh.map(total, [np.ones(N)], **PLACES) == [N]


def test_an_argument_that_comes_back_is_a_copy():
    data = np.ones(N)
    (back,) = mh.map(identity, [data], **PLACES)
    back[:] = 2
    assert (data == 1).all()
    assert mh.map(total, [data, back], **PLACES) == [N, 2 * N]


# Results


def make(value, n=N):
    return np.full(n, float(value))


def test_results_are_writable_and_their_own():
    results = mh.map(make, range(8), **PLACES)
    for value, result in enumerate(results):
        assert result.flags.writeable
        assert (result == value).all()
        result += 100
    assert [result[5] for result in results] == [100 + value for value in range(8)]


def test_an_array_that_a_task_returns_is_not_copied(counted):
    mh.map(make, range(4), **PLACES)  # imports NumPy in the workers
    before = counted()
    mh.map(make, range(8), **PLACES)
    made, avoided = counted()
    assert (made - before[0], avoided - before[1]) == (0, 8)


HUGE = 8 * N  # doubles: so large that arrays of no more are taken for intermediate ones at first


@pytest.mark.parametrize("how", ["a scalar", "an array", "in a graph"])
def test_a_function_that_returns_as_much_as_it_has_is_learnt(how, counted):
    own = np.ones(HUGE)
    scale = lambda factor: own * float(np.max(factor))
    factors = [np.full(2, float(i)) if how == "an array" else float(i) for i in range(6)]
    with mh.config.set(scheduler="processes", num_workers=1):
        if how == "in a graph":
            results = mh.compute([mh.delayed(scale)(factor) for factor in factors])[0]
        else:
            results = mh.map(scale, factors)
    assert [result[-1] for result in results] == list(range(6))
    # The function's own array, and the first result.
    assert counted() == (2, 5)


def return_and_keep(value):
    import manyhands._worker as place

    place.__dict__["_mine"] = np.full(N, float(value))
    return place.__dict__["_mine"]


def change_kept():
    import manyhands._worker as place

    place.__dict__["_mine"][:] = -1


def test_a_result_that_the_worker_has_kept_is_a_copy():
    with mh.config.set(scheduler="processes", num_workers=1):
        mh.map(make, [1])
        result = mh.submit(return_and_keep, 3).result(PATIENCE_S)
        mh.submit(change_kept).result(PATIENCE_S)
        assert (result == 3).all()
    mh.shutdown()


def test_a_small_part_of_a_large_array_does_not_keep_the_rest():
    def part():
        return np.zeros(100 * N)[:N]

    mh.map(make, range(4), **PLACES)
    before = shared_info()
    results = [mh.map(lambda _: part(), range(2), **PLACES) for _ in range(2)]
    assert mh.shared.info().n_bytes_of_results - before.n_bytes_of_results == 4 * 8 * N
    assert all((array == 0).all() for pair in results for array in pair)


def test_results_are_released_when_nobody_has_them():
    before = shared_info().n_bytes_of_results
    results = mh.map(make, range(8), **PLACES)
    assert mh.shared.info().n_bytes_of_results == before + 8 * 8 * N
    part = results[3][10:20]
    del results
    assert mh.shared.info().n_bytes_of_results == before + 8 * N
    assert (part == 3).all()
    del part
    assert mh.shared.info().n_bytes_of_results == before


def test_results_outlive_the_workers():
    results = mh.map(make, range(4), **PLACES)
    mh.shutdown()
    assert all((result == value).all() for value, result in enumerate(results))
    results[0] += 1
    assert mh.map(total, results, **PLACES) == [N, N, 2 * N, 3 * N]


def test_results_that_are_passed_on_within_a_graph():
    double = mh.delayed(lambda x: x * 2)
    add = mh.delayed(lambda *xs: sum(xs))
    leaves = [mh.delayed(make)(value) for value in range(8)]
    doubled = [double(leaf) for leaf in leaves]
    summed = add(*doubled, doubled[0], *leaves)
    spoiled = [mh.delayed(spoil)(leaf, 9.0) for leaf in leaves]
    result, before, first = mh.compute(summed, spoiled, leaves[1], **PLACES)
    assert (result == 28 * 3).all()
    assert before == [value * N for value in range(8)]
    assert (first == 1).all()
    assert first.flags.writeable


def test_a_result_is_shared_by_many_tasks():
    source = mh.delayed(make)(3)
    tasks = [mh.delayed(spoil)(source, float(i)) for i in range(20)]
    assert mh.compute(tasks, **PLACES) == ([3.0 * N] * 20,)


# Functions


def test_arrays_of_closures_defaults_and_globals_are_copied_once(counted):
    table = np.arange(float(N))
    namespace = {"__name__": "__main__", "table": table}
    exec("def by_global(i): return float(table[i])", namespace)

    def by_default(i, values=table):
        return float(values[i])

    for function in (lambda i: float(table[i]), by_default, namespace["by_global"]):
        for _ in range(2):
            assert mh.map(function, range(50), **PLACES) == [float(i) for i in range(50)]
            (results,) = mh.compute([mh.delayed(function)(i) for i in range(50)], **PLACES)
            assert results == [float(i) for i in range(50)]
    made, avoided = counted()
    assert made == 1
    assert avoided > 5
    table[3] = -1
    assert mh.map(lambda i: float(table[i]), [3], **PLACES) == [-1.0]


def test_functions_with_data_do_not_pile_up():
    before = shared_info().n_bytes
    for value in range(20):
        data = np.full(10 * N, float(value))
        assert mh.map(lambda i, data=data: float(data[i]), range(4), **PLACES) == [value] * 4
        del data
    assert mh.map(abs, [-1], **PLACES) == [1]
    assert mh.shared.info().n_bytes <= before + 2 * 80 * N


# Kinds of data


class OutOfBand:
    """A class of one's own that offers its buffer."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        if protocol >= 5:
            return OutOfBand, (pickle.PickleBuffer(self.data),)
        return OutOfBand, (bytes(self.data),)

    def __eq__(self, other):
        return bytes(self.data) == bytes(other.data)


def numpy_samples():
    base = np.random.default_rng(1).random((400, 500))
    objects = np.empty(3, dtype=object)
    objects[:] = [1, "two", [3]]
    yield "C", base
    yield "Fortran", np.asfortranarray(base)
    yield "strided", base[::2, ::3]
    yield "reversed", base[::-1]
    yield "transposed in three dimensions", base.reshape(40, 50, 100).transpose(1, 0, 2)
    yield "integers", np.arange(N)
    yield "booleans", base > 0.5
    yield "dates", np.arange(N).astype("datetime64[s]")
    yield "text", np.arange(N).astype("U8")
    yield "records", np.zeros(N, [("a", "i4"), ("b", "f8")])
    yield "objects", objects
    yield "empty", np.empty((0, 3))
    yield "masked", np.ma.masked_greater(base, 0.5)


@pytest.mark.parametrize("name, array", list(numpy_samples()))
def test_numpy_arrays(name, array):
    for back in mh.map(identity, [array, array], **PLACES):
        assert type(back) is type(array)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
        if array.dtype != object:
            assert back.flags.writeable
            assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc


def pandas_samples():
    numbers = np.random.default_rng(2).random((N // 10, 10))
    frame = pd.DataFrame(numbers, columns=list("abcdefghij"))
    frame["text"] = [f"row {i}" for i in range(len(frame))]
    frame["kind"] = pd.Categorical(["x", "y"] * (len(frame) // 2))
    frame["when"] = pd.date_range("2020-01-01", periods=len(frame), freq="h")
    frame["maybe"] = pd.array([1, None] * (len(frame) // 2), dtype="Int64")
    yield "NumPy-backed", frame
    yield "sliced", frame.iloc[::2, 2:]
    yield "grouped", frame.set_index(["kind", "a"])
    yield "series", frame["b"]
    yield "text", frame["text"]
    yield "objects", frame["text"].astype(object)
    yield "Arrow-backed", frame.convert_dtypes(dtype_backend="pyarrow")


@pytest.mark.parametrize("name", ["NumPy-backed", "sliced", "grouped", "series", "text", "objects", "Arrow-backed"])
def test_pandas(name):
    sample = dict(pandas_samples())[name]
    compare = pd.testing.assert_frame_equal if isinstance(sample, pd.DataFrame) else pd.testing.assert_series_equal
    for back in mh.map(identity, [sample, sample], **PLACES):
        compare(back, sample)


def test_a_task_may_write_to_a_frame():
    def clear(frame):
        frame.loc[:, "a"] = 0.0
        return float(frame["a"].sum())

    frame = pd.DataFrame({"a": np.ones(N), "b": np.ones(N)})
    assert mh.map(clear, [frame] * 4, **PLACES) == [0.0] * 4
    assert frame["a"].sum() == N
    (back,) = mh.map(identity, [frame], **PLACES)
    back.loc[:, "a"] = 5.0
    assert frame["a"].sum() == N


def test_pyarrow_tables():
    import pyarrow as pa

    words = pa.array([f"word {i}" for i in range(N)])
    table = pa.table({"numbers": np.arange(float(N)), "words": words, "kinds": words.dictionary_encode()})
    for sample in (table, table.slice(10, 100), table["words"], words, pa.concat_tables([table, table])):
        for back in mh.map(identity, [sample, sample], **PLACES):
            assert back.equals(sample)


def test_polars_frames():
    """In a program of its own: where Polars has been used, this process cannot be forked any more."""
    program = f"""
        import polars as pl
        import manyhands as mh
        N = {N}
        frame = pl.DataFrame({{"numbers": [float(i) for i in range(N)], "words": [f"word {{i}}" for i in range(N)]}})
        frame = frame.with_columns(pl.col("words").str.slice(0, 6).cast(pl.Categorical).alias("kinds"))
        for sample in (frame, frame["numbers"], frame.head(10)):
            for back in mh.map(lambda x: x, [sample, sample], scheduler="processes", num_workers=2):
                assert back.equals(sample)
        print("fine")
    """
    assert run(program) == "fine\n"


def test_scipy_sparse_matrices():
    from scipy import sparse

    matrix = sparse.random(2000, 2000, 0.05, random_state=3, format="csr")
    for sample in (matrix, matrix.tocsc(), matrix.tocoo(), matrix.T, sparse.diags_array(np.ones(N))):
        for back in mh.map(identity, [sample, sample], **PLACES):
            assert type(back) is type(sample)
            assert (back != sample).nnz == 0


def test_torch_tensors(counted):
    torch = pytest.importorskip(
        "torch",
        reason="PyTorch is in no requirements file, as it is too large to install for one test",
    )
    tensor = torch.arange(float(N))
    for back in mh.map(identity, [tensor, tensor], **PLACES):
        assert torch.equal(back, tensor)
    assert counted()[1] > 0
    assert mh.map(lambda x: float(x.add_(1)[0]), [tensor] * 4, **PLACES) == [1.0] * 4
    assert tensor[0] == 0
    samples = [
        tensor.reshape(100, -1).T,
        tensor[::2],
        tensor.to(torch.bfloat16),
        tensor.to(torch.complex64).conj(),
        tensor > 5,
        torch.nn.Parameter(tensor),
        torch.empty(0),
        tensor.to_sparse(),
    ]
    for scheduler in ("processes", "fork"):
        for sample, back in zip(samples, mh.map(identity, samples, scheduler=scheduler, num_workers=2)):
            assert (type(back), back.dtype, back.requires_grad) == (type(sample), sample.dtype, sample.requires_grad)
            assert torch.equal(back.to_dense(), sample.to_dense())
    model = torch.nn.Linear(1000, 500)
    (back,) = mh.map(identity, [model], **PLACES)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back.parameters(), model.parameters()))


def test_bytes_and_bytearrays(counted):
    data = os.urandom(8 * N)
    for sample in (data, bytearray(data)):
        assert mh.map(identity, [sample, sample], **PLACES) == [sample, sample]
        assert mh.map(lambda x: type(x).__name__, [sample], **PLACES) == [type(sample).__name__]
        assert mh.submit(lambda *, data: len(data), data=sample).result(PATIENCE_S) == len(sample)
        assert mh.compute(mh.delayed(lambda x, y: (len(x), x is y))(sample, sample), **PLACES) == ((8 * N, True),)
        assert mh.map(lambda x: (x, 1), [sample], **PLACES) == [(sample, 1)]
        assert mh.map(lambda x: [x, {"again": x}], [sample], **PLACES) == [[sample, {"again": sample}]]
    assert counted()[1] > 4


def test_a_bytearray_that_is_named_inside_as_well_is_one_object():
    def write(data, inside, *, again=None):
        data[0] = 7
        return inside[0] is data and inside[0][0] == 7 and (again is None or again["x"] is data)

    data = bytearray(8 * N)
    assert mh.map(write, [data], [[data]], **PLACES) == [True]
    assert mh.submit(write, data, (data,), again={"x": data}).result(PATIENCE_S)
    (pair,) = mh.map(lambda n: (lambda x: (x, [x]))(bytearray(n)), [8 * N], **PLACES)
    assert pair[1][0] is pair[0]


def test_classes_of_ones_own_with_buffers(counted):
    sample = OutOfBand(os.urandom(8 * N))
    assert all(back == sample for back in mh.map(identity, [sample] * 4, **PLACES))
    assert counted()[1] >= 3


def test_the_error_for_a_failed_task_shows_its_arguments():
    def fail(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        mh.map(fail, [np.arange(float(N))], **PLACES)
    assert any("array" in note for note in getattr(caught.value, "__notes__", ["array"]))


def test_what_cannot_be_pickled_beside_large_data_is_named():
    data = np.zeros(N)
    with pytest.raises(mh.PicklingError, match="generator"):
        mh.map(lambda x: [data, (i for i in x)], [[1]], **PLACES)
    with pytest.raises(mh.PicklingError, match="argument 'x'"):
        mh.map(identity, [[data, (i for i in [1])]], **PLACES)
    assert mh.map(total, [data], **PLACES) == [0.0]


# Settings


def test_shared_memory_can_be_switched_off_and_its_threshold_set(counted):
    data = np.arange(float(N))
    with mh.config.set({"shared_memory.enabled": False}):
        assert mh.map(total, [data] * 3, **PLACES) == [data.sum()] * 3
        (back,) = mh.map(identity, [data], **PLACES)
        assert back.flags.writeable
        np.testing.assert_array_equal(back, data)
        assert mh.map(len, [bytes(N)], **PLACES) == [N]
    assert counted() == (0, 0)
    with mh.config.set({"shared_memory.threshold": data.nbytes + 1}):
        mh.map(total, [data] * 3, **PLACES)
        assert counted() == (0, 0)
    with mh.config.set({"shared_memory.threshold": 800}):
        mh.map(total, [np.zeros(99), np.zeros(100)], **PLACES)
        assert counted() == (1, 0)


def test_without_shared_memory_everything_works():
    # No memory file may be made: the limit for the size of files does that, to workers too.
    program = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        import numpy as np
        import manyhands as mh
        data = mh.shared.zeros(100_000)
        data += 1
        for back in mh.map(lambda x: x * 2, [data, data, np.ones(100_000)], num_workers=2):
            assert back.sum() == 200_000 and back.flags.writeable
        assert mh.map(len, [bytes(100_000)]) == [100_000]
        assert (data == 1).all()
        assert mh.shared.info().n_bytes == 0, mh.shared.info()
        print("fine")
    """
    assert run(program) == "fine\n"


# Born shared


def test_arrays_that_are_born_shared_are_not_copied(counted):
    data = mh.shared.empty((N, 2), order="F")
    data[:] = 1
    assert data.flags.f_contiguous
    assert not mh.shared.zeros((N,), int).any()
    assert mh.shared.zeros((2, N), "f4").dtype == np.float32
    with mh.shared.allocator():
        squares = np.arange(float(N)) ** 2
        parts = np.concatenate([squares, squares])
    assert mh.map(total, [data, squares, parts, parts[5:-5]], **PLACES)[:2] == [2 * N, squares.sum()]
    assert counted() == (0, 4)


def test_asarray_copies_only_what_is_not_shared_yet():
    data = np.arange(float(N))
    shared = mh.shared.asarray(data)
    assert shared is not data
    np.testing.assert_array_equal(shared, data)
    assert mh.shared.asarray(shared) is shared
    assert mh.shared.asarray(data[::2]).sum() == data[::2].sum()
    assert mh.shared.asarray([1, 2, 3]).tolist() == [1, 2, 3]
    objects = np.array([1, "two"], dtype=object)
    assert mh.shared.asarray(objects) is objects
    assert mh.shared.asarray(data, "f4").dtype == np.float32


def test_arrays_that_are_born_shared_grow_shrink_and_go():
    before = shared_info().n_bytes
    with mh.shared.allocator():
        data = np.arange(float(N))
        small = np.arange(10.0)
    for n in (4 * N, 10, N, 20 * N):
        data.resize(n, refcheck=False)
        small.resize(n, refcheck=False)
        assert data[:10].tolist() == small[:10].tolist() == list(range(10))
    del data, small
    assert mh.shared.info().n_bytes == before


def test_the_allocator_nests_and_ends():
    before = shared_info().n_bytes
    with mh.shared.allocator():
        with mh.shared.allocator():
            inner = np.ones(N)
        outer = np.ones(N)
    ordinary = np.ones(N)
    grown = mh.shared.info().n_bytes - before
    assert 2 * 8 * N <= grown < 3 * 8 * N
    assert inner.sum() == outer.sum() == ordinary.sum()


def test_shared_arrays_are_used_without_any_pool_too():
    program = """
        import sys
        import manyhands as mh
        assert "numpy" not in sys.modules
        data = mh.shared.zeros(100_000)
        data += 1
        import os
        child = os.fork()
        if child == 0:
            data[:] = 5
            more = mh.shared.zeros(100_000)
            more += data
            del data
            os._exit(0 if more[7] == 5 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert (data == 1).all()
        print("fine")
    """
    assert run(program) == "fine\n"


# Forks, and the end


def fork_and_write(x):
    child = os.fork()
    if child == 0:
        x[:] = 7
        np.full(N, 3.0)
        os._exit(int(x[0]))
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), float(x[0]), np.full(N, 4.0)


def test_what_a_forked_child_of_a_task_writes_stays_there():
    data = np.ones(N)
    mh.map(make, range(4), **PLACES)
    for code, first, made in mh.map(fork_and_write, [data] * 4, **PLACES):
        assert (code, first) == (7, 1.0)
        assert (made == 4).all()


def test_a_forked_child_of_the_program_does_not_write_into_results():
    (result,) = mh.map(make, [1], **PLACES)
    shared = mh.shared.zeros(N)
    child = os.fork()
    if child == 0:
        result[:] = 2
        shared[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (result == 1).all()
    assert (shared == 0).all()


def test_a_forked_child_sees_what_the_program_writes_to_shared_memory_later(tmp_path):
    gate = tmp_path / "gate"
    (result,) = mh.map(make, [1], **PLACES)
    shared = mh.shared.zeros(N)
    child = os.fork()
    if child == 0:
        shared[-1] = 5
        until(gate.exists, "the gate is open")
        os._exit(int(10 * result[0] + shared[0]) * (shared[-1] == 5))
    result[:] = 2
    shared[:] = 3
    gate.touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 23
    assert shared[-1] == 3


def test_what_was_passed_ends_in_silence_in_a_forked_child():
    program = """
        import os, warnings
        import numpy as np
        import manyhands as mh
        data = [np.ones(100_000) for _ in range(3)]
        assert mh.map(np.sum, data, num_workers=1, scheduler="processes") == [100_000] * 3
        # From Python 3.12 on it warns of forks where there are threads; there always are some.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        del data
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert mh.shared.info().n_bytes == 0
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_forked_child_of_the_program_computes_on():
    data = np.ones(N)
    shared = mh.shared.asarray(data)
    assert mh.map(total, [data, shared], **PLACES) == [N, N]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            data += 1
            fresh = mh.shared.zeros(N)
            code = int(mh.map(total, [data, shared, fresh], **PLACES) != [2 * N, N, 0])
            mh.shutdown()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert mh.map(total, [data, shared], **PLACES) == [N, N]


def test_many_calls_leave_nothing_behind():
    def fds():
        return len(os.listdir("/proc/self/fd"))

    def maps():
        with open("/proc/self/maps") as file:
            return sum(1 for _ in file)

    def make_and_tell(value):
        return make(value), os.getpid()

    def calls():
        assert mh.map(total, [data, np.full(N, 2.0)], **PLACES) == [N, 2 * N]
        return len({pid for _, pid in mh.map(make_and_tell, range(4), **PLACES)})

    data = np.ones(N)
    until(lambda: calls() == PLACES["num_workers"], "all workers have made arrays")
    before = shared_info().n_bytes, fds(), maps()
    for _ in range(60):
        calls()
    # One of each with every call would be 60. A worker that does all the work for once takes more memory then.
    assert mh.shared.info().n_bytes <= before[0] + 8 * N
    assert fds() <= before[1] + 10
    assert maps() <= before[2] + 20
