"""`mh.random`: NumPy's generators and R's, number for number."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import manyhands as mh

NUMPY_GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
SEEDS = [0, 1, 2**100, [1, 2, 3], np.random.SeedSequence(5, spawn_key=(1, 2))]


def drawn(rng):
    """What a generator gives, through all the ways in which distributions draw."""
    return [
        rng.random(3).tolist(),
        rng.integers(1000, size=3).tolist(),
        rng.integers(2**60, size=2).tolist(),
        rng.normal(size=3).tolist(),
        rng.gamma(2.0, size=2).tolist(),
        rng.permutation(5).tolist(),
        rng.random(2, dtype=np.float32).tolist(),
    ]


# Streams


@pytest.mark.parametrize("bit_generator", NUMPY_GENERATORS)
@pytest.mark.parametrize("seed", SEEDS, ids=["zero", "one", "long", "several", "sequence"])
def test_spawned_streams_are_those_of_numpy(bit_generator, seed):
    kind = getattr(np.random, bit_generator)
    root = copy.copy(seed) if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    expected = [np.random.Generator(kind(child)) for child in copy.deepcopy(root).spawn(5)]
    streams = mh.random.streams(5, seed, bit_generator)
    for rng, other in zip(streams, expected, strict=True):
        assert type(rng.bit_generator) is kind
        assert drawn(rng) == drawn(other)
        # Children of the streams, too.
        assert drawn(rng.spawn(1)[0]) == drawn(other.spawn(1)[0])


@pytest.mark.parametrize("bit_generator", [name for name in NUMPY_GENERATORS if name != "SFC64"])
def test_jumped_streams_are_those_of_numpy(bit_generator):
    base = getattr(np.random, bit_generator)(3)
    streams = mh.random.streams(40, 3, bit_generator, "jumped")
    for index in (0, 1, 2, 39):
        expected = base.jumped(index) if index else copy.deepcopy(base)
        np.testing.assert_equal(streams[index].bit_generator.state, expected.state)
        assert drawn(streams[index]) == drawn(np.random.Generator(expected))


def test_a_twister_jumps_far_at_once():
    streams = mh.random.streams(10**12, 3, "MT19937", "jumped")
    far = streams[10**12 - 3].bit_generator
    np.testing.assert_equal(far.jumped(2).state, streams[10**12 - 1].bit_generator.state)


def test_a_seed_sequence_that_has_spawned_goes_on_and_is_left_as_it_is():
    seeds = np.random.SeedSequence(1)
    seeds.spawn(3)
    rng = mh.random.streams(2, seeds)[1]
    assert seeds.n_children_spawned == 3
    assert drawn(rng) == drawn(np.random.default_rng(seeds.spawn(2)[1]))


def test_streams_are_a_sequence_of_objects_that_stay():
    streams = mh.random.streams(10, 1)
    assert len(streams) == 10
    assert streams[3] is streams[3]
    assert streams[-1] is streams[9]
    assert streams[2:4] == [streams[2], streams[3]]
    assert [rng is streams[i] for i, rng in enumerate(streams)] == [True] * 10
    with pytest.raises(IndexError, match="10 streams"):
        streams[10]
    streams[0].random()
    arrived = pickle.loads(pickle.dumps(streams))
    assert [drawn(rng) for rng in arrived] == [drawn(rng) for rng in streams]


def test_streams_without_a_seed_differ():
    assert mh.random.streams(1)[0].random() != mh.random.streams(1)[0].random()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n=-1"),
        ({"n": 1, "bit_generator": "PCG"}, "'PCG64'"),
        ({"n": 1, "method": "leapfrog"}, "'spawn', 'jumped'"),
        ({"n": 1, "method": "jumped", "bit_generator": "SFC64"}, "no jumps"),
    ],
)
def test_what_there_is_not_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        mh.random.streams(**arguments)


def test_manyhands_imports_numpy_only_for_random_numbers():
    program = """
import sys, manyhands as mh
mh.random
print("numpy" in sys.modules)
mh.random.streams(1)
print("numpy" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]


# MRG32k3a. The expected values are R 4.2.2's.


def as_r_shows(generator):
    return [word - 2**32 if word >= 2**31 else word for word in generator.state["state"]]


def test_a_seed_is_that_of_r():
    # RNGkind("L'Ecuyer-CMRG"); set.seed(1); runif(3)
    rng = np.random.Generator(mh.random.MRG32k3a(1))
    assert [f"{rng.random():.17f}" for _ in range(3)] == [
        "0.67753282862874420",
        "0.42734572288764422",
        "0.91038053048754830",
    ]


def test_the_next_stream_is_that_of_r():
    # nextRNGStream(.Random.seed)
    next_stream = mh.random.MRG32k3a(1).next_stream()
    expected = [4246464, -231956060, -471632796, 1620595781, 533443421, 594164961]
    assert as_r_shows(next_stream) == expected
    # What R shows is accepted as a state.
    assert mh.random.MRG32k3a(expected).state == next_stream.state


def test_streams_can_be_rs():
    streams = mh.random.streams(4, 1, "MRG32k3a", "jumped")
    one_by_one = mh.random.MRG32k3a(1)
    for rng in streams:
        assert rng.bit_generator.state == one_by_one.state
        one_by_one = one_by_one.next_stream()


def test_all_distributions_of_numpy_draw_from_it():
    results = [drawn(np.random.Generator(mh.random.MRG32k3a(1))) for _ in range(2)]
    assert results[0] == results[1]
    sample = np.random.Generator(mh.random.MRG32k3a(1)).normal(size=200_000)
    assert abs(sample.mean()) < 0.02
    assert abs(sample.std() - 1) < 0.02


def test_it_moves_on_only_when_it_is_drawn_from():
    generator = mh.random.MRG32k3a(1)
    before = generator.state
    generator.next_stream(), generator.next_substream(), generator.spawn(2)
    assert generator.state == before
    np.random.Generator(generator).random()
    assert generator.state != before
    generator.state = before
    assert generator.state == before


def test_it_can_be_pickled_and_copied_where_it_is():
    rng = np.random.Generator(mh.random.MRG32k3a(1))
    rng.random(5)
    rng.bit_generator.spawn(2)
    for other in (pickle.loads(pickle.dumps(rng.bit_generator)), copy.deepcopy(rng.bit_generator)):
        assert other.state == rng.bit_generator.state
        assert other.spawn(1)[0].state == copy.deepcopy(rng.bit_generator).spawn(1)[0].state


def test_a_generator_with_it_goes_to_a_worker_and_back():
    rng = np.random.Generator(mh.random.MRG32k3a(1))
    back = mh.map(lambda rng: (rng.random(), rng), [rng, rng], scheduler="processes", num_workers=1)
    assert [value for value, _ in back] == [rng.random()] * 2
    assert drawn(back[0][1]) == drawn(copy.deepcopy(rng)) == drawn(rng)


def test_spawned_generators_differ_from_each_other_and_from_their_parent():
    generator = mh.random.MRG32k3a(1)
    first, second = generator.spawn(2)
    (third,) = generator.spawn(1)
    family = [generator, first, second, third, *first.spawn(2), *second.spawn(2), generator.next_stream()]
    assert len({other.state["state"] for other in family}) == len(family)
    assert len(np.random.Generator(generator).spawn(3)) == 3


def test_a_seed_sequence_seeds_it():
    states = [mh.random.MRG32k3a(np.random.SeedSequence(seed)).state for seed in (1, 1, 2)]
    assert states[0] == states[1] != states[2]
    assert mh.random.MRG32k3a().state != mh.random.MRG32k3a().state


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (2**31, ValueError, "SeedSequence"),
        ([1, 2, 3], TypeError, "six integers"),
        ([1] * 7, TypeError, "six integers"),
        ("1", TypeError, "six integers"),
        ([0.5] * 6, TypeError, "six integers"),
        ([0] * 6, ValueError, "may all be 0"),
        ([2**32 - 1] * 6, ValueError, "below 4294967087"),
    ],
)
def test_what_is_no_seed_is_refused(seed, error, message):
    with pytest.raises(error, match=message):
        mh.random.MRG32k3a(seed)


def test_threads_that_share_it_take_turns():
    n_draws = 20_000
    rng = np.random.Generator(mh.random.MRG32k3a(1))
    threads = [threading.Thread(target=lambda: [rng.random() for _ in range(n_draws)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = np.random.Generator(mh.random.MRG32k3a(1))
    alone.random(4 * n_draws)
    assert rng.bit_generator.state == alone.bit_generator.state


def test_the_capsule_outlives_its_generator():
    generator = mh.random.MRG32k3a(1)
    expected = np.random.Generator(mh.random.MRG32k3a(1)).random(3).tolist()

    class Stand:
        capsule, lock = generator.capsule, generator.lock

    del generator
    assert np.random.Generator(Stand()).random(3).tolist() == expected
