"""Resources: no more tasks at once than there is enough for, devices of one's own, and requests that cannot be met."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import scripts

import manyhands as mh
from manyhands import config


@pytest.fixture(autouse=True)
def end_workers():
    yield
    mh.shutdown()


def use(folder, name, *_args):
    """How many are here at once, at most, as seen from this one."""
    own = Path(folder, f"{name}-{os.getpid()}-{threading.get_native_id()}")
    own.touch()
    most = 0
    for _ in range(5):
        most = max(most, sum(one.startswith(f"{name}-") for one in os.listdir(folder)))
        time.sleep(0.002)
    own.unlink()
    return most


FACES = {
    "map": lambda function, *columns, **settings: mh.map(function, *columns, **settings),
    "compute": lambda function, *columns, **settings: list(
        mh.compute([mh.delayed(function)(*args) for args in zip(*columns)], **settings)[0]
    ),
    "persist": lambda function, *columns, **settings: [
        lazy.compute() for lazy in mh.persist([mh.delayed(function)(*args) for args in zip(*columns)], **settings)[0]
    ],
    "stream": lambda function, *columns, **settings: list(mh.stream(function, *columns, **settings)),
}


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
@pytest.mark.parametrize("face", FACES)
def test_no_more_run_at_once_than_there_is_enough_for(face, scheduler, tmp_path):
    n = 24
    with config.set(scheduler=scheduler, num_workers=4, resources={"licence": 2, "line": 3}):
        columns = [[str(tmp_path)] * n, ["use"] * n]
        found = FACES[face](use, *columns, resources={"licence": 1})
        assert len(found) == n
        assert max(found) <= 2
        assert max(FACES[face](use, *columns, resources={"line": 2})) == 1
        assert max(FACES[face](use, *columns, resources={"line": 1, "licence": 2})) == 1


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_they_do_run_side_by_side_as_far_as_there_is_enough(scheduler, tmp_path):
    def meet(number):
        Path(tmp_path, str(number)).touch()
        deadline = time.monotonic() + 120
        while len(os.listdir(tmp_path)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return number

    with config.set(scheduler=scheduler, num_workers=4, resources={"licence": 3}):
        assert mh.map(meet, range(3), resources={"licence": 1}) == [0, 1, 2]


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_others_go_on_meanwhile(scheduler, tmp_path):
    """Tasks that wait for a resource keep no worker from those that need none."""

    def hold(_):
        deadline = time.monotonic() + 120
        while not Path(tmp_path, "go").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with config.set(scheduler=scheduler, num_workers=2, resources={"licence": 1}):
        with mh.resources(licence=1):
            futures = [mh.submit(hold, i) for i in range(4)]
        assert mh.map(abs, range(-100, 0)) == list(range(100, 0, -1))
        assert not any(future.done() for future in futures)
        Path(tmp_path, "go").touch()
        assert [future.result() for future in futures] == [None] * 4


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_calls_share_one_account(scheduler, tmp_path):
    """Of one program's threads, of submitted calls and of maps."""
    found = []

    def call():
        found.extend(mh.map(use, [str(tmp_path)] * 8, ["use"] * 8, resources={"licence": 1}))

    with config.set(scheduler=scheduler, num_workers=4, resources={"licence": 2}):
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        with mh.resources(licence=1):
            futures = [mh.submit(use, str(tmp_path), "use") for _ in range(8)]
        # Others' workers are not counted.
        assert len(mh.map(abs, range(50))) == 50
        for thread in threads:
            thread.join()
        found += [future.result() for future in futures]
    assert len(found) == 32
    assert max(found) <= 2


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
@pytest.mark.parametrize("later", [{}, {"licence": 0}, {"other": 3}], ids=["not", "none", "another"])
def test_what_a_call_was_promised_is_not_taken_away_by_others(scheduler, later, tmp_path):
    def hold(number):
        deadline = time.monotonic() + 120
        while not Path(tmp_path, "go").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return number

    with config.set(scheduler=scheduler, num_workers=2):
        with config.set(resources={"licence": 2}), mh.resources(licence=2):
            futures = [mh.submit(hold, i) for i in range(4)]
        with config.set(resources=later):
            assert mh.map(abs, [-1]) == [1]
            if "other" in later:
                assert mh.map(abs, [-1], resources={"other": 3}) == [1]
            with pytest.raises(mh.ConfigError, match="can never be had"):
                mh.map(abs, [-1], resources={"licence": 1})
        Path(tmp_path, "go").touch()
        assert [future.result(timeout=scripts.PATIENCE_S) for future in futures] == [0, 1, 2, 3]


def test_what_failed_or_killed_its_worker_gives_back(tmp_path):
    def task(number):
        if number == 1:
            raise LookupError(number)
        if number == 2 and not Path(tmp_path, "died").exists():
            Path(tmp_path, "died").touch()
            os._exit(3)
        return number

    with config.set(scheduler="processes", num_workers=2, resources={"licence": 1}):
        for _ in range(3):
            with pytest.raises(LookupError):
                mh.map(task, [0, 1, 2], resources={"licence": 1})
            assert mh.map(task, [0, 2, 3], resources={"licence": 1}) == [0, 2, 3]
        with mh.resources(licence=1):
            cancelled = mh.submit(time.sleep, 600)
            scripts.until(cancelled.running, "it runs")
            cancelled.stop() if hasattr(cancelled, "stop") else cancelled.cancel()
        mh.shutdown()
        assert mh.map(task, [0, 3], resources={"licence": 1}) == [0, 3]


def test_ctrl_c_gives_back(tmp_path):
    program = """
        import sys, time
        import manyhands as mh
        mh.config.set(scheduler=sys.argv[1], num_workers=2, resources={"licence": 1})
        def wait(_):
            print("runs", flush=True)
            time.sleep(600)
        try:
            mh.map(wait, range(4), resources={"licence": 1})
        except KeyboardInterrupt:
            print(mh.map(abs, [-1, -2], resources={"licence": 1}))
    """
    import signal

    for scheduler in ["processes", "threads"]:
        with scripts.start(tmp_path, program, scheduler) as started:
            started.wait_for("runs")
            os.kill(started.pid, signal.SIGINT)
            if scheduler == "threads":
                # A thread in compiled code cannot be ended; its resource is given back all the same.
                started.wait_for("[1, 2]")
            else:
                assert started.wait().stdout.endswith("[1, 2]\n")


# Devices


def device(folder, *_args):
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    return own, os.getpid(), use(folder, f"device {own}")


def test_each_worker_sees_a_device_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with config.set(num_workers=4, resources={"gpu": 2}):
        found = mh.map(device, [str(tmp_path)] * 24, resources={"gpu": 1})
        assert {own for own, _, _ in found} <= {"0", "1"}
        # Nobody else is on it meanwhile, and no worker changes its own.
        assert {most for _, _, most in found} == {1}
        by_worker = {pid: own for own, pid, _ in found}
        assert all(by_worker[pid] == own for own, pid, _ in found)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_devices_are_those_that_the_program_sees(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 7")
    with config.set(num_workers=2):
        found = mh.map(device, [str(tmp_path)] * 6, resources={"gpu": 1})
        assert {own for own, _, _ in found} <= {"GPU-a", "7"}
        both = mh.map(device, [str(tmp_path)] * 3, resources={"gpu": 2})
        assert {(frozenset(own.split(",")), most) for own, _, most in both} == {(frozenset({"GPU-a", "7"}), 1)}
        with pytest.raises(mh.ConfigError, match="asks for 3 of 'gpu', and there are 2"):
            mh.map(abs, [1], resources={"gpu": 3})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(mh.ConfigError, match="asks for 1 of 'gpu', and there are 0"):
        mh.map(abs, [1], resources={"gpu": 1})


@pytest.mark.parametrize(
    ("files", "visible", "seen"),
    [
        (["nvidia3"], None, ["0"]),
        (["nvidia1", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"], None, ["0", "1", "2"]),
        (["nvidiactl", "null"], None, []),
        (["nvidia0", "nvidia1"], "1", ["1"]),
        (["nvidia0", "nvidia1"], "GPU-8f2a, MIG-77,3", ["GPU-8f2a", "MIG-77", "3"]),
        (["nvidia0", "nvidia1"], "1,-1,0", ["1"]),
        (["nvidia0", "nvidia1"], "", []),
        (["nvidia0", "nvidia1"], "NoDevFiles", []),
    ],
)
def test_devices_are_named_as_cuda_counts_them(files, visible, seen, tmp_path, monkeypatch):
    """The files of a container have the numbers that the machine gives its devices; CUDA counts from 0."""
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": files if path == "/dev" else listed(path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with config.set(num_workers=len(seen) or 1):
        if not seen:
            with pytest.raises(mh.ConfigError, match="there are 0"):
                mh.map(abs, [1], resources={"gpu": 1})
            return
        (whole,) = {
            frozenset(own.split(",")) for own, *_ in mh.map(device, [str(tmp_path)] * 4, resources={"gpu": len(seen)})
        }
        assert whole == set(seen)
        found = mh.map(device, [str(tmp_path)] * 8, resources={"gpu": 1})
        assert {own for own, *_ in found} <= set(seen)


@pytest.mark.parametrize(
    ("visible", "n_units", "n_needed", "seen"),
    [("5", 2, 1, {"5"}), ("GPU-a,GPU-b", 4, 1, {"GPU-a", "GPU-b"}), ("GPU-a", 2, 2, {"GPU-a"}), ("", 2, 1, {""})],
)
def test_more_units_than_devices_share_those_that_the_program_sees(
    visible, n_units, n_needed, seen, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with config.set(num_workers=n_units, resources={"gpu": n_units}):
        found = mh.map(device, [str(tmp_path)] * 8, resources={"gpu": n_needed})
        assert {own for own, *_ in found} <= seen


# What each worker has


def test_what_is_configured_for_each_worker(tmp_path, monkeypatch):
    folder = str(tmp_path)
    with config.set(num_workers=3, resources_per_worker={"licence": 1, "line": 2}, resources={"line": 1}):
        assert max(mh.map(use, [folder] * 16, ["use"] * 16, resources={"licence": 2})) == 1
        # What is said of all together goes before it.
        assert max(mh.map(use, [folder] * 16, ["use"] * 16, resources={"line": 1})) == 1
        with pytest.raises(mh.ConfigError, match="asks for 4 of 'licence', and there are 3"):
            mh.map(abs, [1], resources={"licence": 4})
        with config.set(num_workers=4):
            assert mh.map(abs, [-1], resources={"licence": 4}) == [1]
    file = tmp_path / "settings.toml"
    file.write_text("num_workers = 2\n[resources]\nline = 1\n[resources_per_worker]\nlicence = 2\n")
    for variables in (
        {"MANYHANDS_NUM_WORKERS": "2", "MANYHANDS_RESOURCES_PER_WORKER": "licence=2"},
        {"MANYHANDS_CONFIG": str(file)},
    ):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        config.refresh()
        try:
            with pytest.raises(mh.ConfigError, match="asks for 5 of 'licence', and there are 4"):
                mh.map(abs, [1], resources={"licence": 5})
        finally:
            monkeypatch.undo()
            config.refresh()
    with pytest.raises(mh.ConfigError, match="resources_per_worker='gpu' is not accepted"):
        config.set(resources_per_worker="gpu")


# What is accepted


@pytest.mark.parametrize("scheduler", ["processes", "threads", "synchronous"])
def test_a_request_that_can_never_be_met_is_an_error_at_once(scheduler):
    with config.set(scheduler=scheduler, resources={"licence": 2, "gpu": 0}):
        calls = [
            lambda: mh.map(abs, [1], resources={"licence": 3}),
            lambda: mh.compute(mh.delayed(abs)(1), resources={"licence": 3}),
            lambda: mh.persist(mh.delayed(abs)(1), resources={"licence": 3}),
            lambda: mh.stream(abs, [1], resources={"licence": 3}),
        ]
        for call in calls:
            with pytest.raises(mh.ConfigError, match=r"asks for 3 of 'licence', and there are 2\. .*: licence: 2\."):
                call()
        with pytest.raises(mh.ConfigError, match="asks for 1 of 'lisence', and there are 0"), mh.resources(lisence=1):
            mh.submit(abs, 1)
        assert mh.map(abs, [-1], resources={"licence": 2}) == [1]
        assert mh.map(abs, [-1], resources={"licence": 0, "none": 0}) == [1]


def test_forked_workers_and_calls_inside_of_tasks_cannot_ask():
    with config.set(resources={"licence": 2}):
        with pytest.raises(mh.ConfigError, match="no account is kept of resources"):
            mh.map(abs, [1], scheduler="fork", resources={"licence": 1})
        for scheduler in ["processes", "threads", "synchronous"]:
            with pytest.raises(mh.ConfigError, match="resources are the outermost call's to ask for"):
                mh.map(lambda _: mh.map(abs, [1], resources={"licence": 1}), [0], scheduler=scheduler)
        # A block outside of the task is not the inner call's.
        with mh.resources(licence=1):
            assert mh.map(lambda _: mh.map(abs, [-1]), [0], scheduler="synchronous") == [[1]]


@pytest.mark.parametrize(
    "wrong", [{"gpu": -1}, {"gpu": 1.5}, {"gpu": True}, {"": 1}, {3: 1}, "gpu", "gpu=x", 3, ["gpu"]]
)
def test_resources_that_are_none(wrong):
    with pytest.raises(mh.ConfigError, match="resources=.* is not accepted. Accepted: whole numbers of units"):
        config.set(resources=wrong)
    with pytest.raises(mh.ConfigError, match="resources=.* is not accepted"):
        mh.map(abs, [1], resources=wrong)


def test_resources_in_the_settings(monkeypatch, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[resources]\ngpu = 2\nlicence = 3\n")
    for variable, value in [("MANYHANDS_RESOURCES", "gpu=2, licence=3"), ("MANYHANDS_CONFIG", str(file))]:
        monkeypatch.setenv(variable, value)
        config.refresh()
        try:
            assert config.get("resources") == {"gpu": 2, "licence": 3}
        finally:
            monkeypatch.undo()
            config.refresh()
    assert config.get("resources") == {}


def test_blocks_hold_in_their_thread_and_end():
    with config.set(scheduler="threads", num_workers=1, resources={"licence": 1}):
        with mh.resources(licence=1), mh.resources(licence=0):
            assert mh.map(abs, [-1]) == [1]
        with mh.resources(licence=2):
            failed = []

            def other():
                failed.append(mh.map(abs, [-1]))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert failed == [[1]]
            with pytest.raises(mh.ConfigError):
                mh.map(abs, [-1])
        assert mh.map(abs, [-1]) == [1]
        assert repr(mh.resources(licence=2)) == "resources(licence=2)"
