"""Random numbers of torch, by a module that behaves alike as far as its global states go; the real one is large."""

from __future__ import annotations

import ast
import random
import textwrap

import numpy as np
import pytest
from scripts import check, run

SCHEDULERS = ["synchronous", "threads", "processes", "fork"]

TORCH = """
    import random as _random

    class _State(tuple):
        def numpy(self):
            return repr(tuple(self)).encode()

    class _Generator:
        def __init__(self):
            # As torch does: the same in each process.
            self.manual_seed(67280421310721)

        def manual_seed(self, seed):
            self._seed, self.numbers = seed, _random.Random(seed)

        def seed(self):
            self.manual_seed(_random.SystemRandom().getrandbits(64))

        def initial_seed(self):
            return self._seed

        def get_state(self):
            return _State(self.numbers.getstate())

        def set_state(self, state):
            self.numbers.setstate(tuple(state))

    class cuda:
        generator = _Generator()

        @staticmethod
        def is_initialized():
            return True

        @staticmethod
        def get_rng_state_all():
            return [cuda.generator.get_state()]

        @staticmethod
        def set_rng_state_all(states):
            cuda.generator.set_state(states[0])

        @staticmethod
        def manual_seed_all(seed):
            cuda.generator.manual_seed(seed)

    default_generator = _Generator()

    def rand():
        return default_generator.numbers.random()

    def rand_of_device():
        return cuda.generator.numbers.random()
"""

PROGRAM = """
    import sys, time
    import manyhands as mh

    scheduler, when = sys.argv[1:]
    mh.config.set(scheduler=scheduler, num_workers=2, random_misuse="ignore")
    if when == "before":
        import torch

    def draw(x):
        import torch
        time.sleep(0.001)
        return torch.rand()

    def draw_both(x):
        import torch
        return torch.rand(), torch.rand_of_device()
"""


@pytest.fixture
def torch(tmp_path):
    (tmp_path / "torch.py").write_text(textwrap.dedent(TORCH))


@pytest.mark.parametrize("when", ["before", "in the task"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_seed_sets_them(scheduler, when, torch, tmp_path):
    source = (
        PROGRAM
        + """
    for _ in range(2):
        print(mh.map(draw_both, range(6), seed=5))
    import torch
    print((torch.rand(), torch.rand_of_device()))
    """
    )
    outcome = run(tmp_path, source, scheduler, when)
    check(outcome)
    *runs, own = (ast.literal_eval(line) for line in outcome.stdout.splitlines())
    expected = []
    for child in np.random.SeedSequence(5).spawn(6):
        low, high = (int(word) for word in child.generate_state(10)[8:])
        expected.append((random.Random(high << 32 | low).random(),) * 2)
    if scheduler == "threads":
        # They are shared: nothing is set there, and all numbers are the program's own, one after the other.
        numbers = random.Random(67280421310721)
        own_numbers = sorted(numbers.random() for _ in range(12))
        assert sorted(drawn for run in runs for drawn, _ in run) == own_numbers
        return
    assert runs == [expected, expected]
    if scheduler != "synchronous" or when == "before":
        # What the program draws itself goes on where it was.
        assert own == (random.Random(67280421310721).random(),) * 2


@pytest.mark.parametrize("when", ["before", "in the task"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_without_a_seed_no_two_tasks_draw_the_same(scheduler, when, torch, tmp_path):
    source = (
        PROGRAM
        + """
    drawn = mh.map(draw, range(40), chunksize=1)
    mh.map(draw, range(10), seed=5)
    drawn += mh.map(draw, range(40), chunksize=1)
    print(len(set(drawn)))
    """
    )
    check(run(tmp_path, source, scheduler, when), "80\n")


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_two_runs_without_a_seed_differ(scheduler, torch, tmp_path):
    """In workers, torch would begin with the same seed each time."""
    runs = [
        run(tmp_path, PROGRAM + "\n    print(mh.map(draw, range(3)))\n", scheduler, "in the task") for _ in range(2)
    ]
    for outcome in runs:
        check(outcome)
    drawn = [number for outcome in runs for number in ast.literal_eval(outcome.stdout)]
    assert len(set(drawn)) == 6


@pytest.mark.parametrize("content", ["", "default_generator = object()", None])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_is_no_torch_is_left_alone(scheduler, content, tmp_path):
    if content is not None:
        (tmp_path / "torch.py").write_text(content)
    source = """
    import sys, random
    import manyhands as mh

    scheduler, is_none = sys.argv[1:]
    mh.config.set(scheduler=scheduler, num_workers=2, random_misuse="ignore")
    if is_none == "True":
        sys.modules["torch"] = None
    else:
        import torch

    def draw(x, rng=None):
        if is_none == "True":
            sys.modules["torch"] = None
        else:
            import torch
        return random.random() if rng is None else rng.random()

    assert len(set(mh.map(draw, range(5)))) == 5
    print(mh.map(draw, range(3), seed=5))
    assert len(set(mh.map(draw, range(5)))) == 5
    """
    expected = [np.random.default_rng(child).random() for child in np.random.SeedSequence(5).spawn(3)]
    check(run(tmp_path, source, scheduler, content is None), f"{expected}\n")
