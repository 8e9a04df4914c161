"""Settings choose where things run, and change nothing else."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import pytest

import manyhands as mh

HANG_S = 120


def place(*_args):
    return os.getpid(), threading.get_ident()


def pause_place(i):
    time.sleep(0.002)
    return i, place()


def square(x):
    return x * x


def test_tasks_run_where_the_settings_say(where):
    here = place()
    places = set(mh.map(place, range(50)))
    places.update(mh.compute([mh.delayed(place)(i) for i in range(50)])[0])
    places.update(mh.stream(place, range(50)))
    places.update(mh.submit(place).result() for _ in range(5))
    if where.is_synchronous:
        assert places == {here}
    elif where.is_fork:
        assert all(pid != here[0] for pid, _ in places)
        assert len({pid for pid, _ in mh.map(place, range(50))}) <= where.num_workers
    elif where.is_processes:
        assert all(pid != here[0] for pid, _ in places)
        assert len({pid for pid, _ in places}) <= where.num_workers
    else:
        assert {pid for pid, _ in places} == {here[0]}
        assert here not in places
        assert len(places) <= where.num_workers


def test_all_workers_take_part(where, tmp_path):
    n_workers = where.num_workers

    def wait_for_others(i):
        """Ends once as many tasks have begun as there are workers."""
        (tmp_path / str(i)).touch()
        deadline = time.monotonic() + HANG_S
        while len(os.listdir(tmp_path)) < n_workers:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return i

    assert mh.map(wait_for_others, range(n_workers), chunksize=1) == list(range(n_workers))


def test_the_keyword_of_a_call_wins():
    own = place()
    assert mh.map(place, [0], scheduler="sync") == [own]
    assert mh.compute(mh.delayed(place)(), scheduler="single-threaded") == (own,)
    assert mh.delayed(place)().compute(scheduler="synchronous") == own
    assert mh.delayed(place)().persist(scheduler="synchronous").compute() == own
    assert list(mh.stream(place, [0], scheduler="synchronous")) == [own]
    pid, thread = mh.map(place, [0], scheduler="threads", num_workers=1)[0]
    assert (pid, thread != own[1]) == (own[0], True)
    assert mh.map(place, [0], scheduler="multiprocessing", num_workers=1)[0][0] != own[0]


def test_settings_nest():
    own = place()
    with mh.config.set(scheduler="threads"):
        with mh.config.set(scheduler="synchronous"):
            assert mh.map(place, [0]) == [own]
            assert mh.submit(place).result() == own
        assert mh.map(place, [0]) != [own]
        mh.config.set(scheduler="sync")
        assert mh.map(place, [0]) == [own]


def test_a_wrong_keyword_is_an_error_that_says_what_is_accepted():
    for run in (
        lambda **keywords: mh.compute(mh.delayed(square)(1), **keywords),
        lambda **keywords: mh.persist(mh.delayed(square)(1), **keywords),
        lambda **keywords: mh.delayed(square)(1).compute(**keywords),
        lambda **keywords: mh.map(square, [1], **keywords),
        lambda **keywords: mh.stream(square, [1], **keywords),
    ):
        with pytest.raises(mh.ConfigError, match=r"'thread'.*did you mean 'threads'.*\"processes\""):
            run(scheduler="thread")
        for wrong in (0, -1, "four", 2.5, True):
            with pytest.raises(mh.ConfigError, match="num_workers=.*an integer from 1"):
                run(num_workers=wrong)
            with pytest.raises(mh.ConfigError, match="chunksize=.*an integer from 1"):
                run(chunksize=wrong)
        with pytest.raises(TypeError, match="no_such_keyword"):
            run(no_such_keyword=1)


@pytest.mark.parametrize("chunksize", [1, 2, 3, 10, 64, 1000, 5000])
def test_results_do_not_depend_on_the_chunk_size(chunksize):
    assert mh.map(square, range(500), chunksize=chunksize) == [i * i for i in range(500)]
    tasks = [mh.delayed(square)(i) for i in range(100)]
    assert mh.compute(tasks, chunksize=chunksize)[0] == [i * i for i in range(100)]
    with mh.config.set(chunksize=chunksize):
        total = mh.delayed(sum)(tasks)
        assert mh.compute(total, tasks[3]) == (sum(i * i for i in range(100)), 9)


def test_a_chunk_size_is_honoured():
    """Items of a chunk run one after another in one place: it changes rarely from item to item."""
    found = [there for _, there in mh.map(pause_place, range(200), chunksize=50)]
    n_changes = sum(a != b for a, b in zip(found, found[1:]))
    # Four chunks; the items may arrive in parts, and an idle worker takes half of what another has not begun.
    assert n_changes <= 40


def test_the_number_of_workers_changes_from_call_to_call(where):
    for num_workers in (3, 1, 2, 1, 3):
        found = mh.map(pause_place, range(40), num_workers=num_workers)
        assert len({there for _, there in found}) <= num_workers
        if not where.is_synchronous:
            assert place() not in {there for _, there in found}


def test_workers_that_are_still_starting_count(where):
    """A pool made smaller before all of its workers are there never grows beyond its new size."""
    for _ in range(3):
        mh.shutdown()
        mh.map(place, [0], num_workers=4)
        found = mh.map(pause_place, range(200), num_workers=1)
        assert len({there for _, there in found}) == 1
        assert where.is_synchronous or found[0][1] != place()


PROGRAM = """
import json, os, threading
import manyhands as mh
def place(_):
    return os.getpid(), threading.get_ident()
found = mh.map(place, range(20))
future = mh.submit(place, 0).result()
here = place(0)
print(json.dumps({
    "settings": [mh.config.get("scheduler"), mh.config.get("num_workers"), mh.config.get("chunksize")],
    "same_process": all(pid == here[0] for pid, _ in [*found, future]),
    "same_thread": all(tuple(there) == here for there in [*found, future]),
    "n_places": len({tuple(there) for there in found}),
}))
"""


def run_program(where, folder, **variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MANYHANDS_")}
    env.update({"XDG_CONFIG_HOME": str(folder / "none"), **variables})
    script = folder / "program.py"
    script.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=env, capture_output=True, text=True, timeout=HANG_S
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["same_process"] is not where.is_elsewhere
    assert found["same_thread"] is where.is_synchronous
    assert found["n_places"] <= where.num_workers
    return found["settings"]


def test_the_environment_chooses(where, tmp_path):
    variables = {
        "MANYHANDS_SCHEDULER": where.scheduler,
        "MANYHANDS_NUM_WORKERS": str(where.num_workers),
        "MANYHANDS_CHUNKSIZE": "4",
    }
    assert run_program(where, tmp_path, **variables) == [where.scheduler, where.num_workers, 4]


def test_a_configuration_file_chooses(where, tmp_path):
    text = f'scheduler = "{where.scheduler}"\nnum_workers = {where.num_workers}\n'
    (tmp_path / "manyhands.toml").write_text(text)
    assert run_program(where, tmp_path) == [where.scheduler, where.num_workers, None]


def test_a_wrong_environment_is_an_error_that_names_the_variable(tmp_path):
    for variable, value in {"MANYHANDS_SCHEDULER": "cluster", "MANYHANDS_NUM_WORKERS": "four"}.items():
        env = {name: text for name, text in os.environ.items() if not name.startswith("MANYHANDS_")}
        code = "import manyhands as mh; mh.map(abs, [1])"
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**env, variable: value},
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        assert ran.returncode == 1
        assert f"{variable}='{value}'" in ran.stderr
        assert "ccepted" in ran.stderr


def test_random_numbers_do_not_depend_on_the_place():
    import random

    def draw(seed):
        return random.Random(seed).random()

    assert mh.map(draw, range(50)) == [random.Random(seed).random() for seed in range(50)]
    assert list(itertools.islice(mh.stream(draw, itertools.count()), 50)) == mh.map(draw, range(50))
