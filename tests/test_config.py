"""The settings: which source wins, what is accepted, and what the errors say."""

import os
import pickle
import subprocess
import sys
import threading
import warnings

import pytest

from manyhands import config
from manyhands._faults import settled
from manyhands.errors import ConfigError


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch, tmp_path):
    """No files, no variables, nothing set; and all as before afterwards."""
    for variable in list(os.environ):
        if variable.startswith("MANYHANDS_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "_state", config._State())
    monkeypatch.setattr(config._state, "n_cpus", 6)
    yield
    assert [layer.statement for layer in config._state.layers].count(None) == 1  # every block was closed


def user_file(tmp_path, text):
    path = tmp_path / "xdg" / "manyhands" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The defaults and `set`


def test_the_defaults():
    assert config.resolve() == ("processes", 6, None)
    assert config.to_dict() == {
        "scheduler": "processes",
        "num_workers": None,
        "chunksize": None,
        "idle_timeout": 300.0,
        "memory_limit": 0.6,
        "worker_memory_limit": "auto",
        "spill_directory": None,
        "shared_memory_enabled": True,
        "shared_memory_threshold": 65536,
        "seed": None,
        "relay": True,
        "random_misuse": "warn",
        "retries": 0,
        "retry_delay": 0.1,
        "timeout": None,
        "resources": {},
        "resources_per_worker": {},
        "progress": False,
    }
    assert config.get("num_workers", 3) == 3
    assert config.get("idle_timeout", default=1) == 1


def test_the_number_of_workers_is_that_of_the_cpus(monkeypatch):
    from manyhands._native import cpu_count

    monkeypatch.setattr(config._state, "n_cpus", None)
    assert config.resolve()[1] == cpu_count() >= 1


def test_set_as_a_statement():
    config.set(scheduler="threads", num_workers=3)
    assert config.resolve() == ("threads", 3, None)
    config.set({"num-workers": 4, "chunksize": 10})
    assert config.resolve() == ("threads", 4, 10)
    config.set(num_workers=None, scheduler=None, chunksize=None)
    assert config.resolve() == ("processes", 6, None)


def test_set_as_a_nested_block():
    config.set(num_workers=2)
    with config.set(num_workers=3):
        with config.set(scheduler="sync", num_workers=4):
            assert config.resolve() == ("synchronous", 4, None)
        assert config.resolve() == ("processes", 3, None)
    assert config.resolve() == ("processes", 2, None)
    assert config.get("scheduler", None) is None


def test_a_block_ends_with_an_exception_too():
    with pytest.raises(ZeroDivisionError), config.set(num_workers=3):
        raise ZeroDivisionError
    assert config.resolve()[1] == 6


def test_a_statement_in_a_block_ends_with_it():
    with config.set(num_workers=3):
        config.set(num_workers=4, chunksize=7)
        assert config.resolve() == ("processes", 4, 7)
    assert config.resolve() == ("processes", 6, None)


def test_one_object_in_several_blocks():
    settings = config.set(num_workers=3)
    with settings, settings:
        assert config.resolve()[1] == 3
    assert config.resolve()[1] == 6
    with settings:
        assert config.resolve()[1] == 3
    assert config.resolve()[1] == 6


def test_blocks_that_end_in_another_order():
    first, second = config.set(num_workers=3), None
    first.__enter__()
    second = config.set(scheduler="threads")
    second.__enter__()
    first.__exit__(None, None, None)
    assert config.resolve() == ("threads", 6, None)
    second.__exit__(None, None, None)
    assert config.resolve() == ("processes", 6, None)


def test_a_block_acts_on_other_threads():
    seen = []
    with config.set(num_workers=3):
        thread = threading.Thread(target=lambda: seen.append(config.resolve()))
        thread.start()
        thread.join()
    assert seen == [("processes", 3, None)]


def test_blocks_in_many_threads_leave_nothing_behind():
    errors = []

    def work(n):
        for _ in range(300):
            with config.set(chunksize=n):
                if config.resolve()[2] is None:
                    errors.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert config.resolve() == ("processes", 6, None)


@pytest.mark.parametrize("name", ["num_workers", "num-workers", "num.workers"])
def test_spellings_of_a_name_are_equal(name):
    config.set({name: 5})
    assert config.get(name) == config.get("num_workers") == 5


def test_many_statements_keep_few_layers():
    for n in range(1, 1000):
        config.set(num_workers=n)
    with config.set(chunksize=1):
        for n in range(1, 1000):
            config.set(chunksize=n)
        assert len(config._state.layers) < 6
        assert config.resolve() == ("processes", 999, 999)
    assert config.resolve() == ("processes", 999, None)


def test_a_statement_that_is_kept_ends_with_its_block():
    with config.set(num_workers=3):
        kept = config.set(num_workers=4)
        assert config.resolve()[1] == 4
    assert config.resolve()[1] == 6
    with kept:
        assert config.resolve()[1] == 4
    assert config.resolve()[1] == 6


# Names and values


@pytest.mark.parametrize(
    "given, canonical",
    [
        ("synchronous", "synchronous"),
        ("sync", "synchronous"),
        ("single-threaded", "synchronous"),
        ("threads", "threads"),
        ("threading", "threads"),
        ("processes", "processes"),
        ("multiprocessing", "processes"),
        ("Threads", "threads"),
    ],
)
def test_names_of_schedulers(given, canonical):
    assert config.resolve(given)[0] == canonical
    config.set(scheduler=given)
    assert config.get("scheduler") == canonical
    assert config.resolve()[0] == canonical


def test_numbers_that_are_not_int_but_integers():
    import numpy as np

    assert config.resolve(num_workers=np.int64(3), chunksize=np.uint8(4)) == ("processes", 3, 4)
    assert type(config.resolve(num_workers=np.int64(3))[1]) is int


@pytest.mark.parametrize(
    "settings, parts",
    [
        (
            {"scheduler": "thread"},
            ["scheduler='thread'", "did you mean 'threads'?", '"processes"', '"single-threaded"'],
        ),
        ({"scheduler": "ray"}, ["scheduler='ray'", '"processes" (or "multiprocessing")']),
        ({"scheduler": 3}, ["scheduler=3", '"threads"']),
        ({"num_workers": 0}, ["num_workers=0", "an integer from 1 to 10000"]),
        ({"num_workers": -1}, ["num_workers=-1", "an integer from 1"]),
        ({"num_workers": "four"}, ["num_workers='four'", "an integer from 1"]),
        ({"num_workers": "4"}, ["num_workers='4'", "an integer from 1"]),
        ({"num_workers": 2.5}, ["num_workers=2.5", "an integer from 1"]),
        ({"num_workers": 2.0}, ["num_workers=2.0", "an integer from 1"]),
        ({"num_workers": True}, ["num_workers=True", "an integer from 1"]),
        ({"num_workers": 10**6}, ["num_workers=1000000", "10000"]),
        ({"num_workers": int}, ["num_workers=<class 'int'>", "an integer from 1"]),
        ({"chunksize": 0}, ["chunksize=0", "an integer from 1"]),
        ({"chunksize": True}, ["chunksize=True", "an integer from 1"]),
    ],
)
def test_wrong_values_are_refused_everywhere(settings, parts):
    for use in (lambda: config.set(**settings), lambda: config.set(settings), lambda: config.resolve(**settings)):
        with pytest.raises(ConfigError) as caught:
            use()
        for part in parts:
            assert part in str(caught.value)
    assert config.resolve() == ("processes", 6, None)


@pytest.mark.parametrize("value", [0, -1, "soon", True, float("inf"), float("nan"), []])
def test_wrong_idle_timeouts(value):
    with pytest.raises(ConfigError, match='a number of seconds above 0, or "never"'):
        config.set(idle_timeout=value)


@pytest.mark.parametrize(
    "key, values, accepted",
    [
        ("retries", [-1, 1.0, True, "2", 10**7, []], "an integer from 0 to 1000000"),
        ("retry_delay", [-0.1, "1", True, float("inf"), float("nan"), []], "a number of seconds from 0 on"),
        ("timeout", [0, -1, "1", True, float("nan"), []], "a number of seconds above 0"),
    ],
)
def test_wrong_settings_for_tasks_that_fail(key, values, accepted):
    for value in values:
        with pytest.raises(ConfigError, match=f"{key}=") as caught:
            config.set({key: value})
        assert accepted in str(caught.value)
    assert not config.has_faults()


def test_settings_for_tasks_that_fail(monkeypatch, tmp_path):
    assert settled(None, None, None, is_nested=False) == (0, 0.1, None)
    monkeypatch.setenv("MANYHANDS_RETRIES", "3")
    monkeypatch.setenv("MANYHANDS_TIMEOUT", "2.5")
    user_file(tmp_path, "retry_delay = 1\n")
    config.refresh()
    assert config.has_faults()
    assert settled(None, None, None, is_nested=False) == (3, 1.0, 2.5)
    assert settled(0, 0, 7, is_nested=False) == (0, 0.0, 7.0)
    # Calls that tasks make are part of these.
    assert settled(None, None, None, is_nested=True) == (0, 0.1, None)
    assert settled(1, None, None, is_nested=True) == (1, 0.1, None)
    with config.set(retries=None, timeout=None):
        assert not config.has_faults()
    monkeypatch.setenv("MANYHANDS_FORCE", "1")
    config.refresh()
    assert settled(0, 0, 7, is_nested=False) == (3, 1.0, 2.5)


@pytest.mark.parametrize("value, seconds", [(5, 5.0), (0.5, 0.5), ("never", None), (None, None)])
def test_idle_timeouts(value, seconds):
    config.set(idle_timeout=value)
    assert config.get("idle_timeout") == seconds


@pytest.mark.parametrize(
    "value, limit",
    [
        (1024, 1024),
        (4 << 30, 4 << 30),
        ("4 G", 4 << 30),
        ("4 GiB", 4 << 30),
        ("500MB", 500_000_000),
        ("1.5 kib", 1536),
        ("4000000000000000001", 4_000_000_000_000_000_001),
        (0.25, 0.25),
        (1.0, 1.0),
        ("0.25", 0.25),
        ("25 %", 0.25),
        ("Unlimited", float("inf")),
        (float("inf"), float("inf")),
        (None, 0.6),
    ],
)
def test_memory_limits(value, limit):
    config.set(memory_limit=value)
    found = config.get("memory_limit")
    assert (found, type(found)) == (limit, type(limit))
    config.set(worker_memory_limit=value)
    found = config.get("worker_memory_limit")
    expected = "auto" if value is None else limit
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "value",
    [
        0,
        1,
        -1,
        0.0,
        1.5,
        "1",
        "1023",
        -0.5,
        float("nan"),
        True,
        "much",
        "4 GiB/s",
        "GiB",
        "150%",
        "",
        "0",
        "1e999",
        [],
        2**63,
    ],
)
def test_wrong_memory_limits(value):
    with pytest.raises(ConfigError, match='a number of bytes.*"4 GiB".*a share of the memory.*"unlimited"'):
        config.set(memory_limit=value)
    with pytest.raises(ConfigError, match='worker_memory_limit=.* not accepted. Accepted: "auto", a number of bytes'):
        config.set(worker_memory_limit=value)


def test_the_limit_for_workers_may_be_left_to_the_engine(monkeypatch):
    monkeypatch.setenv("MANYHANDS_WORKER_MEMORY_LIMIT", "3 GiB")
    config.refresh()
    assert config.get("worker_memory_limit") == 3 << 30
    for value in ("auto", " Auto "):
        config.set(worker_memory_limit=value)
        assert config.get("worker_memory_limit") == "auto"


def test_the_folder_for_results_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for value in (tmp_path / "folder", str(tmp_path / "folder"), "folder"):
        config.set(spill_directory=value)
        assert config.get("spill_directory") == str(tmp_path / "folder")
    config.set(spill_directory=None)
    assert config.get("spill_directory") is None
    for value in ("missing", "file", 3, b"folder", ""):
        with pytest.raises(ConfigError, match="the path of a folder that exists"):
            config.set(spill_directory=value)


def test_memory_limits_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYHANDS_MEMORY_LIMIT", "2 GiB")
    monkeypatch.setenv("MANYHANDS_SPILL_DIRECTORY", str(tmp_path))
    config.refresh()
    assert (config.get("memory_limit"), config.get("spill_directory")) == (2 << 30, str(tmp_path))
    monkeypatch.setenv("MANYHANDS_MEMORY_LIMIT", "two")
    with pytest.raises(ConfigError, match="MANYHANDS_MEMORY_LIMIT='two' is not accepted"):
        config.refresh()


def test_how_tasks_are_heard(monkeypatch):
    assert config.hearing() == (0, 4)
    for value, stored, number in [("live", True, 0), ("ordered", "ordered", 2), (False, False, 3), (None, True, 0)]:
        config.set(relay=value)
        assert (config.get("relay"), config.hearing()) == (stored, (number, 4))
    assert config.hearing("ordered") == (2, 4)
    config.set(random_misuse="error")
    assert config.hearing(False) == (3, 8)
    monkeypatch.setenv("MANYHANDS_RELAY", "off")
    monkeypatch.setenv("MANYHANDS_RANDOM_MISUSE", "ignore")
    monkeypatch.setenv("MANYHANDS_FORCE", "1")
    config.refresh()
    assert config.hearing(True) == (3, 0)
    for key, value in [("relay", "loud"), ("relay", 2), ("random_misuse", True), ("random_misuse", "warning")]:
        with pytest.raises(ConfigError, match=f"{key}={value!r} is not accepted"):
            config.set({key: value})


def test_a_setting_without_its_name_is_refused():
    with pytest.raises(ConfigError, match=r"'threads' is not accepted.*Did you mean scheduler=\"threads\"\?"):
        config.set("threads")
    with pytest.raises(ConfigError, match="4 is not accepted. Accepted: settings by name"):
        config.set(4)
    with pytest.raises(ConfigError, match="is not accepted. Accepted: settings by name"):
        config.set([])


def test_unknown_keys_are_refused_and_nothing_is_changed():
    with pytest.raises(ConfigError, match=r"'num_worker' is not a setting; did you mean 'num_workers'\?") as caught:
        config.set(scheduler="threads", num_worker=3)
    assert "scheduler, num_workers, chunksize, idle_timeout" in str(caught.value)
    with pytest.raises(ConfigError, match=r"'distributed\.comm' is not a setting"):
        config.set({"distributed.comm": 3})
    with pytest.raises(ConfigError, match="3 is not a setting"):
        config.set({3: 3})
    with pytest.raises(ConfigError, match="'colour' is not a setting"):
        config.get("colour")
    assert config.get("colour", 7) == 7
    assert config.get("colour", None) is None
    assert config.resolve() == ("processes", 6, None)


def test_the_error_is_a_value_error_and_survives_pickling():
    with pytest.raises(ValueError, match="num_workers=0") as caught:
        config.set(num_workers=0)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# Files and environment


def test_each_source_wins_over_the_ones_before_it(monkeypatch, tmp_path):
    user_file(tmp_path, 'scheduler = "threads"\nnum-workers = 2\nchunksize = 1\n')
    config.refresh()
    monkeypatch.setattr(config._state, "n_cpus", 6)
    assert config.resolve() == ("threads", 2, 1)

    (tmp_path / "manyhands.toml").write_text("num_workers = 3\nchunksize = 2\n")
    config.refresh()
    assert config.resolve() == ("threads", 3, 2)

    (tmp_path / "other.toml").write_text("chunksize = 3\nidle_timeout = 'never'\n")
    monkeypatch.setenv("MANYHANDS_CONFIG", str(tmp_path / "other.toml"))
    config.refresh()
    assert config.resolve() == ("threads", 3, 3)
    assert config.get("idle_timeout") is None

    monkeypatch.setenv("MANYHANDS_CHUNKSIZE", "4")
    monkeypatch.setenv("MANYHANDS_IDLE_TIMEOUT", "7.5")
    config.refresh()
    assert config.resolve() == ("threads", 3, 4)
    assert config.get("idle_timeout") == 7.5

    with config.set(chunksize=5):
        assert config.resolve() == ("threads", 3, 5)
        assert config.resolve(chunksize=6) == ("threads", 3, 6)
        lines = config.describe().splitlines()
    assert lines[0].startswith("scheduler = 'threads' (file ")
    assert lines[0].endswith("config.toml)")
    assert lines[1] == "num_workers = 3 (file manyhands.toml)"
    assert lines[2] == "chunksize = 5 (config.set)"
    assert lines[3] == "idle_timeout = 7.5 (environment MANYHANDS_IDLE_TIMEOUT)"


def test_shared_memory_can_be_set_from_everywhere(monkeypatch, tmp_path):
    user_file(tmp_path, "[shared_memory]\nthreshold = 1000\nenabled = false\n")
    config.refresh()
    assert (config.get("shared_memory.threshold"), config.get("shared_memory.enabled")) == (1000, False)
    monkeypatch.setenv("MANYHANDS_SHARED_MEMORY_THRESHOLD", "2000")
    monkeypatch.setenv("MANYHANDS_SHARED_MEMORY_ENABLED", "1")
    config.refresh()
    assert (config.get("shared_memory.threshold"), config.get("shared_memory.enabled")) == (2000, True)
    with config.set({"shared_memory.threshold": 3000}, shared_memory_enabled=False):
        assert (config.get("shared_memory.threshold"), config.get("shared_memory.enabled")) == (3000, False)
    for key, value in [("threshold", 0), ("threshold", "1 MB"), ("enabled", "perhaps"), ("enabled", 1)]:
        with pytest.raises(ConfigError, match=f"shared_memory.{key}="):
            config.set({f"shared_memory.{key}": value})


@pytest.mark.parametrize("word", ["1", "true", "yes", "On", "0", "False", "NO", "off"])
def test_yes_and_no_are_said_alike_everywhere(monkeypatch, word):
    meant = word.lower() in ("1", "true", "yes", "on")
    monkeypatch.setenv("MANYHANDS_SHARED_MEMORY_ENABLED", word)
    monkeypatch.setenv("MANYHANDS_FORCE", word)
    config.refresh()
    assert config.get("shared_memory.enabled") is meant
    assert ("MANYHANDS_FORCE" in config.describe()) is meant


def test_the_environment_is_read_once_until_refresh(monkeypatch):
    assert config.resolve()[0] == "processes"
    monkeypatch.setenv("MANYHANDS_SCHEDULER", "threads")
    assert config.resolve()[0] == "processes"
    config.set(num_workers=2)
    assert config.resolve()[0] == "processes"
    config.refresh()
    assert config.resolve() == ("threads", 2, None)


def test_who_runs_the_program_has_the_last_word(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYHANDS_SCHEDULER", "sync")
    (tmp_path / "manyhands.toml").write_text("num_workers = 2\n")
    monkeypatch.setenv("MANYHANDS_FORCE", "1")
    with config.set(scheduler="threads", num_workers=5, chunksize=9):
        assert config.resolve() == ("synchronous", 2, 9)
        assert config.resolve("processes", 7, 8) == ("synchronous", 2, 8)
        assert config.get("scheduler") == "synchronous"
        assert "MANYHANDS_FORCE" in config.describe()
    with pytest.raises(ConfigError):
        config.resolve("thread")
    monkeypatch.setenv("MANYHANDS_FORCE", "0")
    config.refresh()
    assert config.resolve("threads", 7, 8) == ("threads", 7, 8)


@pytest.mark.parametrize(
    "variable, text",
    [
        ("MANYHANDS_SCHEDULER", "thread"),
        ("MANYHANDS_NUM_WORKERS", "0"),
        ("MANYHANDS_NUM_WORKERS", "four"),
        ("MANYHANDS_NUM_WORKERS", "2.5"),
        ("MANYHANDS_CHUNKSIZE", "-1"),
        ("MANYHANDS_IDLE_TIMEOUT", "0"),
        ("MANYHANDS_IDLE_TIMEOUT", "nan"),
        ("MANYHANDS_FORCE", "maybe"),
        ("MANYHANDS_RETRIES", "-1"),
        ("MANYHANDS_RETRIES", "often"),
        ("MANYHANDS_RETRY_DELAY", "-1"),
        ("MANYHANDS_TIMEOUT", "0"),
    ],
)
def test_wrong_variables_are_named(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    for use in (config.resolve, config.refresh, lambda: config.get("scheduler")):
        with pytest.raises(ConfigError, match=variable) as caught:
            use()
        assert "Accepted:" in str(caught.value)


def test_empty_variables_count_as_missing(monkeypatch):
    for name in ("SCHEDULER", "NUM_WORKERS", "CONFIG", "FORCE"):
        monkeypatch.setenv(f"MANYHANDS_{name}", "")
    assert config.resolve() == ("processes", 6, None)


def test_an_unknown_variable_is_reported(monkeypatch):
    monkeypatch.setenv("MANYHANDS_WORKERS", "4")
    with pytest.warns(UserWarning, match="MANYHANDS_WORKERS is not known .* MANYHANDS_NUM_WORKERS"):
        assert config.resolve()[1] == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.resolve()


def test_wrong_files_are_named(monkeypatch, tmp_path):
    path = user_file(tmp_path, "num_worker = 3\n")
    with pytest.raises(ConfigError, match="'num_worker' is not a setting; did you mean") as caught:
        config.resolve()
    assert str(path) in str(caught.value)

    path.write_text("[manyhands]\nnum_workers = 3\n")
    with pytest.raises(ConfigError, match="'manyhands' is not a setting"):
        config.refresh()

    path.write_text("num_workers = 'four'\n")
    with pytest.raises(ConfigError, match="num_workers='four' is not accepted") as caught:
        config.refresh()
    assert str(path) in str(caught.value)

    path.write_text("scheduler = 'sync'\nnum_workers = = 3\n")
    with pytest.raises(ConfigError, match="line 2") as caught:
        config.refresh()
    assert str(path) in str(caught.value)

    path.write_bytes(b"scheduler = '\xff'\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.refresh()

    path.unlink()
    monkeypatch.setenv("MANYHANDS_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read"):
        config.refresh()


# Its own cost


def test_it_imports_next_to_nothing(tmp_path):
    program = "\n".join(
        [
            "import sys, types",
            "sys.modules['manyhands'] = types.ModuleType('manyhands')",
            f"sys.modules['manyhands'].__path__ = [{os.path.dirname(config.__file__)!r}]",
            "import __future__",
            "before = set(sys.modules)",
            "import manyhands.config as config",
            "config.set(num_workers=2, chunksize=3, scheduler='threads')",
            "assert config.resolve() == ('threads', 2, 3)",
            "print(sorted(set(sys.modules) - before))",
        ]
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MANYHANDS_")}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "['manyhands._native', 'manyhands._plans', 'manyhands._settings', 'manyhands.config']"
