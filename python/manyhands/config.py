"""The settings, and which of their sources wins.

======================= =================== ==================================== =================================
key                     default             accepted                             environment
======================= =================== ==================================== =================================
scheduler               ``"processes"``     ``"synchronous"``, ``"threads"``,    MANYHANDS_SCHEDULER
                                            ``"processes"``, ``"fork"``; several
                                            of them are a plan, see below
num_workers             what `cpu_count`    an integer from 1 to 10 000; several MANYHANDS_NUM_WORKERS
                        gives               of them for the levels of a plan
chunksize               measured            an integer of at least 1             MANYHANDS_CHUNKSIZE
idle_timeout            300 (seconds)       a positive number, or ``"never"``    MANYHANDS_IDLE_TIMEOUT
shared_memory.enabled   True                True or False: whether large buffers MANYHANDS_SHARED_MEMORY_ENABLED
                                            travel through shared memory
shared_memory.threshold 65536 (bytes)       an integer of at least 1: from what  MANYHANDS_SHARED_MEMORY_THRESHOLD
                                            size on they do
memory_limit            0.6                 how much memory results may take     MANYHANDS_MEMORY_LIMIT
                                            that wait for their readers: bytes,
                                            ``"4 GiB"``, a share of what is free
                                            (0.6, ``"60%"``), ``"unlimited"``
worker_memory_limit     ``"auto"``          how much workers may take for        MANYHANDS_WORKER_MEMORY_LIMIT
                                            themselves, all together: bytes,
                                            ``"4 GiB"``, a share of what they
                                            could have, ``"unlimited"``;
                                            ``"auto"`` leaves a tenth of that
                                            free, or 4 GiB if that is less
resources               the GPUs found      numbers of units by name:            MANYHANDS_RESOURCES
                                            {"gpu": 2, "licence": 3}, or
                                            ``"gpu=2,licence=3"``: how much
                                            there is of what tasks ask for
resources_per_worker    none                the same for each of the configured  MANYHANDS_RESOURCES_PER_WORKER
                                            `num_workers`, together as many
                                            units: of names that `resources`
                                            does not have
spill_directory         the system's for    an existing folder: where they go    MANYHANDS_SPILL_DIRECTORY
                        temporary files     beyond that
seed                    None                an integer from 0 on, several of     MANYHANDS_SEED
                                            them, a numpy.random.SeedSequence:
                                            what random numbers begin with, the
                                            same for every call
relay                   True                True, ``"ordered"``, False: whether  MANYHANDS_RELAY
                                            what tasks print, warn of and log
                                            appears, as it comes or in the order
                                            of the serial run
random_misuse           ``"warn"``          ``"warn"``, ``"error"``,             MANYHANDS_RANDOM_MISUSE
                                            ``"ignore"``: what becomes of tasks
                                            that draw from a global state
                                            without a seed
retries                 0                   an integer from 0 on: how often a    MANYHANDS_RETRIES
                                            task that raised is run again
retry_delay             0.1 (seconds)       a number from 0 on: how long it      MANYHANDS_RETRY_DELAY
                                            rests before, doubled each time
timeout                 None                a number of seconds above 0: how     MANYHANDS_TIMEOUT
                                            long a task may run
progress                False               True, ``"tqdm"``, ``"rich"``, or     MANYHANDS_PROGRESS
                                            what `ProgressBar` takes: whether
                                            and how it is shown how far calls
                                            have come
======================= =================== ==================================== =================================

A *plan* says what calls use that tasks make: with ``scheduler=["processes", "threads"], num_workers=[2, 4]``, or
``MANYHANDS_SCHEDULER=processes,threads MANYHANDS_NUM_WORKERS=2,4``, there are two worker processes, and what their
tasks call runs in four threads in each. Below the plan, calls run one after the other in the task that makes them. A
level without a number has a worker for each CPU that tasks there may use: those of the level above, divided by its
workers.

From the weakest to the strongest: the defaults; the user's file ``~/.config/manyhands/config.toml``; ``manyhands.toml``
in the working directory; the file that MANYHANDS_CONFIG names; the environment; `set`; the keyword of a call. With
MANYHANDS_FORCE=1 the files and the environment win over `set` and keywords: the person who runs a program has the last
word over the one who wrote it.

Files and environment are read at first use, and again at `refresh`. In a name ``-``, ``.`` and ``_`` are the same.
This module is read at ``import manyhands``, so it imports nothing that costs time.
"""

from __future__ import annotations

import os
from _thread import RLock
from _weakref import ref

from manyhands import _settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

__all__ = ["describe", "get", "refresh", "resolve", "set", "to_dict"]

_OTHER_VARIABLES = ("MANYHANDS_CONFIG", "MANYHANDS_FORCE")
_UNSET = object()


def _key(name: object, where: str) -> str:
    """The key that a name stands for."""
    key = name.replace("-", "_").replace(".", "_") if isinstance(name, str) else ""
    if key not in _settings.CHECKS:
        hint = _settings.did_you_mean(key, list(_settings.CHECKS)) if key else "."
        raise _settings.error(f"{where}{name!r} is not a setting{hint} Accepted: {', '.join(_settings.CHECKS)}.")
    return key


# The sources


def _read_file(path: str) -> dict[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise _settings.error(f"the configuration file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise _settings.error(f"the configuration file {path} is not valid TOML: {error}.") from error
    settings = {}
    for name, value in _flat(content):
        key = _key(name, f"{path}: ")
        settings[key] = _settings.CHECKS[key](value, f"{path}: {name}")
    return settings


def _flat(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a file says, a table's entries under its name and theirs."""
    for name, value in content.items():
        is_table = name not in _settings.CHECKS and any(key.startswith(f"{name}_") for key in _settings.CHECKS)
        if isinstance(value, dict) and is_table:
            yield from ((f"{name}.{inner}", inside) for inner, inside in value.items())
        else:
            yield name, value


def _files() -> list[str]:
    """The configuration files that there are, the weakest first."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    paths = [os.path.join(home, "manyhands", "config.toml"), "manyhands.toml"]
    paths = [path for path in paths if os.path.isfile(path)]
    named = os.environ.get("MANYHANDS_CONFIG")
    return [*paths, named] if named else paths


def _from_text(key: str, text: str) -> object:
    """The value that the text of an environment variable stands for."""
    try:
        if key == "num_workers" and "," in text:
            return [int(part) for part in text.split(",")]
        if key in ("num_workers", "chunksize", "shared_memory_threshold", "seed", "retries"):
            return int(text)
        if key in ("shared_memory_enabled", "relay", "progress"):
            return _settings.YES_OR_NO.get(text.lower(), text)
        if key in ("idle_timeout", "retry_delay", "timeout"):
            return float(text)
    except ValueError:
        pass  # the check that follows says what is accepted
    return text


def _read_environment() -> dict[str, tuple[Any, str]]:
    settings: dict[str, tuple[Any, str]] = {}
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith("MANYHANDS_") or variable in _OTHER_VARIABLES or not text.strip():
            continue
        key = variable[len("MANYHANDS_") :].lower()
        if key not in _settings.CHECKS:
            import warnings

            known = [f"MANYHANDS_{name.upper()}" for name in _settings.CHECKS] + list(_OTHER_VARIABLES)
            warnings.warn(
                f"the environment variable {variable} is not known to manyhands and has no effect; "
                f"known: {', '.join(known)}",
                stacklevel=4,
            )
            continue
        settings[key] = (_settings.CHECKS[key](_from_text(key, text.strip()), variable), f"environment {variable}")
    return settings


def _is_forced() -> bool:
    text = os.environ.get("MANYHANDS_FORCE", "").strip().lower()
    if not text:
        return False
    if text not in _settings.YES_OR_NO:
        raise _settings.error(f"MANYHANDS_FORCE={text!r} is not accepted. Accepted: {_settings.YES_OR_NO_ACCEPTED}.")
    return _settings.YES_OR_NO[text]


class _Layer:
    """What one use of `set` chose.

    A use is a statement until it enters a ``with``; then it is a block. A statement belongs to the block that was the
    innermost when it was made, and ends with it. Its settings are folded into the layer below once nobody can enter
    it any more, so that a program with a million statements keeps one layer.
    """

    __slots__ = ("block", "settings", "statement")

    def __init__(self, settings: dict[str, Any], statement: ref[set] | None, block: _Layer | None) -> None:
        self.settings = settings
        # Set for statements only: the object that may still be entered, and the block it belongs to.
        self.statement = statement
        self.block = block

    def is_settled(self) -> bool:
        return self.statement is None or self.statement() is None


class _State:
    """All sources of this process, and what they come to. Changed under its lock only."""

    def __init__(self) -> None:
        self.lock = RLock()
        # Value and source of each key that the person who runs the program chose; None: not read yet.
        self.outside: dict[str, tuple[Any, str]] | None = None
        self.forced = False
        # The strongest last; the first is the block that is the whole process.
        self.layers = [_Layer({}, None, None)]
        # What `resolve` needs, ready; None: to be merged again.
        self.merged: tuple[str, int, int | None] | None = None
        # The same for `resolve_plan`, with the level of tasks.
        self.plan: tuple[str, int, int | None, int] | None = None
        # The same for `resolve_seed`, merged along.
        self.seed: _settings.Seed | None = None
        # The same for calls without keywords about failures; None where nothing in particular is to happen.
        self.faults: tuple[int, float, float | None] | None = None
        # The same for `hearing`.
        self.hearing = (0, 4)
        # The same for `shows`.
        self.progress: Any = False
        self.forced_keys: tuple[str, ...] = ()
        self.n_cpus: int | None = None

    def read(self) -> dict[str, tuple[Any, str]]:
        if self.outside is None:
            outside: dict[str, tuple[Any, str]] = {}
            for path in _files():
                outside.update({key: (value, f"file {path}") for key, value in _read_file(path).items()})
            outside.update(_read_environment())
            self.forced = _is_forced()
            self.forced_keys = tuple(outside) if self.forced else ()
            self.outside = outside
        return self.outside

    def find(self, key: str) -> tuple[Any, str]:
        """The value of a key and where it comes from."""
        value, source = self.find_checked(key)
        return (value.value if isinstance(value, _settings.Seed) else value), source

    def find_checked(self, key: str) -> tuple[Any, str]:
        """The same, as the check of the key has left it."""
        outside = self.read()
        if self.forced and key in outside:
            return outside[key]
        for layer in reversed(self.layers):
            if key in layer.settings:
                return layer.settings[key], "config.set"
        return outside.get(key) or (_settings.DEFAULTS[key], "default")

    def add_statement(self, statement: set, settings: dict[str, Any]) -> _Layer:
        with self.lock:
            while len(self.layers) > 1 and self.layers[-1].statement is not None:
                if not (self.layers[-1].is_settled() and self.layers[-2].is_settled()):
                    break
                below = self.layers[-2]
                below.settings = {**below.settings, **self.layers.pop().settings}
            block = next(layer for layer in reversed(self.layers) if layer.statement is None)
            layer = _Layer(settings, ref(statement), block)
            self.layers.append(layer)
            self.merged = None
            return layer

    def enter_block(self, statement: _Layer) -> _Layer:
        with self.lock:
            block = _Layer(statement.settings, None, None)
            self.layers[:] = [layer for layer in self.layers if layer is not statement]
            self.layers.append(block)
            self.merged = None
            return block

    def exit_block(self, block: _Layer) -> None:
        """By identity and from anywhere in the list: blocks of several threads may end in any order."""
        with self.lock:
            self.layers[:] = [layer for layer in self.layers if layer is not block and layer.block is not block]
            self.merged = None

    def cpus(self) -> int:
        if self.n_cpus is None:
            from manyhands._native import cpu_count

            self.n_cpus = cpu_count()
        return self.n_cpus

    def merge(self) -> tuple[str, int, int | None]:
        with self.lock:
            from manyhands import _plans

            levels = _plans.levels_of(self.find("scheduler")[0], self.find("num_workers")[0])
            n_workers = levels[0][1] or self.cpus()
            self.seed = self.find_checked("seed")[0]
            retries, delay, timeout = (self.find(key)[0] for key in ("retries", "retry_delay", "timeout"))
            self.faults = None if retries == 0 and timeout is None else (retries, delay, timeout)
            self.hearing = (_settings.HEARINGS[self.find("relay")[0]], _settings.MISUSES[self.find("random_misuse")[0]])
            self.progress = self.find("progress")[0]
            merged = (levels[0][0], n_workers, self.find("chunksize")[0])
            self.plan = (*merged, _plans.of_tasks(levels, n_workers, self.cpus(), 1))
            self.merged = merged
            return merged


_state = _State()


def _after_fork() -> None:
    """A thread that held the lock does not exist in the child."""
    _state.lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# What programs call


class set:
    """Change settings: for good as a statement, for a block in a ``with``.

    Both act on the whole process, on every thread. What a statement inside a block sets ends with the block. A value
    of ``None`` means the default behaviour, also where a file or the environment says otherwise.

    Parameters
    ----------
    mapping : mapping of str to object, optional
        Settings by name.
    **keywords
        The same as keywords.

    Raises
    ------
    ConfigError
        For an unknown key or a value that is not accepted; nothing is changed then.

    Examples
    --------
    >>> from manyhands import config
    >>> with config.set(scheduler="sync", num_workers=2):
    ...     config.get("scheduler"), config.get("num-workers")
    ('synchronous', 2)
    """

    def __init__(self, mapping: Mapping[str, object] | None = None, **keywords: object) -> None:
        settings: dict[str, Any] = {}
        if mapping is not None and not hasattr(mapping, "items"):
            hint = f' Did you mean scheduler="{mapping}"?' if str(mapping) in _settings.SCHEDULERS else ""
            raise _settings.error(
                f"{mapping!r} is not accepted. Accepted: settings by name, such as num_workers=4.{hint}"
            )
        for name, value in [*(mapping.items() if mapping is not None else ()), *keywords.items()]:
            key = _key(name, "")
            checked = (
                _settings.DEFAULTS[key]
                if value is None and key == "scheduler"
                else _settings.CHECKS[key](value, str(name))
            )
            settings[key] = checked
        from manyhands import _plans

        _plans.require_levels(settings.get("scheduler"), settings.get("num_workers"))
        self._statement = _state.add_statement(self, settings)
        self._blocks: list[_Layer] = []

    def __enter__(self) -> dict[str, Any]:
        self._blocks.append(_state.enter_block(self._statement))
        return to_dict()

    def __exit__(self, *exc_info: object) -> None:
        _state.exit_block(self._blocks.pop())


def get(key: str, default: Any = _UNSET) -> Any:
    """The present value of a setting.

    Parameters
    ----------
    key : str
        Its name; ``-`` and ``.`` count as ``_``.
    default : object, optional
        What to return where nobody chose a value, or where the key is not known.

    Returns
    -------
    object
        ``scheduler``: one of ``"synchronous"``, ``"threads"``, ``"processes"``, ``"fork"``, or a tuple of them.
        ``num_workers``: an integer, or None where the library is to choose, or a tuple of these. ``chunksize``: an
        integer, or None. ``idle_timeout``: seconds, or None for never.
        ``shared_memory_enabled``: a bool. ``shared_memory_threshold``: bytes. ``memory_limit``: bytes as an integer, a
        share as a float, infinity for none. ``worker_memory_limit``: the same, or ``"auto"``.
        ``spill_directory``: a path, or None for the usual one. ``seed``: an integer, a tuple of them, a
        ``numpy.random.SeedSequence``, or None. ``relay``: True (for which ``"live"`` may be given), ``"ordered"`` or
        False. ``random_misuse``: ``"warn"``, ``"error"`` or ``"ignore"``. ``retries``: an integer. ``retry_delay``:
        seconds. ``timeout``: seconds, or None. ``resources`` and ``resources_per_worker``: dicts of units by name.
        ``progress``: False, or what shows how far calls have come.

    Raises
    ------
    ConfigError
        For an unknown key without a `default`, and for a wrong value in the environment or a file.

    Examples
    --------
    >>> from manyhands import config
    >>> with config.set(idle_timeout="never"):
    ...     print(config.get("idle_timeout"))
    None
    >>> config.get("no_such_key", default=3)
    3
    """
    if default is not _UNSET and (
        not isinstance(key, str) or key.replace("-", "_").replace(".", "_") not in _settings.CHECKS
    ):
        return default
    with _state.lock:
        value, source = _state.find(_key(key, ""))
    return default if source == "default" and default is not _UNSET else value


def to_dict() -> dict[str, Any]:
    """The present value of every setting.

    Returns
    -------
    dict of str to object

    Examples
    --------
    >>> from manyhands import config
    >>> sorted(config.to_dict())[:3]
    ['chunksize', 'idle_timeout', 'memory_limit']
    """
    with _state.lock:
        return {key: _state.find(key)[0] for key in _settings.CHECKS}


def describe() -> str:
    """Every setting with its value and where it comes from, one to a line.

    Returns
    -------
    str

    Examples
    --------
    >>> from manyhands import config
    >>> with config.set(num_workers=2):
    ...     print(config.describe().splitlines()[1])
    num_workers = 2 (config.set)
    """
    with _state.lock:
        found = {key: _state.find(key) for key in _settings.CHECKS}
        lines = [f"{key} = {value!r} ({source})" for key, (value, source) in found.items()]
        if _state.forced:
            lines.append("MANYHANDS_FORCE: files and environment win over config.set and keywords")
    return "\n".join(lines)


def refresh() -> None:
    """Read the files, the environment and the number of CPUs again; what `set` chose stays.

    Raises
    ------
    ConfigError
        For a wrong value in the environment or a file.

    Examples
    --------
    >>> from manyhands import config
    >>> config.refresh()
    """
    with _state.lock:
        _state.outside = _state.merged = _state.n_cpus = None
        _state.read()


def keys() -> tuple[str, ...]:
    """The names of all settings, for the command line."""
    return tuple(_settings.CHECKS)


def check_text(key: str, text: str, name: str) -> None:
    """Raise a ConfigError, which calls the setting by `name`, if this text in the environment would not be accepted."""
    _settings.CHECKS[key](_from_text(key, text), name)


def generation() -> object:
    """An object that is another one once any setting may have changed; for those who remember settings."""
    return _state.merged or _state.merge()


def resolve(
    scheduler: str | Sequence[str] | None = None,
    num_workers: int | Sequence[int | None] | None = None,
    chunksize: int | None = None,
) -> tuple[str, int, int | None]:
    """What holds for one call with these keywords, outside of any task.

    Parameters
    ----------
    scheduler, num_workers, chunksize : optional
        The keywords of the call; None where it does not give them.

    Returns
    -------
    tuple of (str, int, int or None)
        Scheduler, number of workers, chunk size or None for measured batches. Of a plan, those of the first level.

    Raises
    ------
    ConfigError
        For a wrong value, in the call or in any source.

    Examples
    --------
    >>> from manyhands import config
    >>> config.resolve("sync", 2, 10)
    ('synchronous', 2, 10)
    """
    return resolve_plan(scheduler, num_workers, chunksize)[:3]


def resolve_plan(scheduler: object, num_workers: object, chunksize: object) -> tuple[str, int, int | None, int]:
    """The same with the level of the call's tasks; see `manyhands._plans`."""
    if _state.merged is None:
        _state.merge()
    plan = _state.plan
    assert plan is not None
    if scheduler is None and num_workers is None and chunksize is None:
        return plan
    name, n_workers, size, level = plan
    if chunksize is not None:
        given = _settings.CHECKS["chunksize"](chunksize, "chunksize")
        size = size if "chunksize" in _state.forced_keys else given
    if scheduler is not None or num_workers is not None:
        from manyhands import _plans

        name, n_workers, level = _plans.outermost(scheduler, num_workers)
    return name, n_workers, size, level


def n_cpus() -> int:
    """How many CPUs there are to be shared among workers."""
    return _state.cpus()


def has_faults() -> bool:
    """Whether tasks of calls without keywords about it are tried again, or may only run for so long."""
    if _state.merged is None:
        _state.merge()
    return _state.faults is not None


def hearing(relay: object = None) -> tuple[int, int]:
    """How the tasks of one call are heard, and what becomes of random numbers without a seed.

    Parameters
    ----------
    relay : object
        The keyword of the call; None where it does not give one.

    Returns
    -------
    tuple of (int, int)
        As `manyhands._relay` numbers them.

    Raises
    ------
    ConfigError
        For a value that is not accepted.

    Examples
    --------
    >>> from manyhands import config
    >>> config.hearing("ordered")
    (2, 4)
    """
    if _state.merged is None:
        _state.merge()
    if relay is None:
        return _state.hearing
    given = _settings.CHECKS["relay"](relay, "relay")
    return _state.hearing if "relay" in _state.forced_keys else (_settings.HEARINGS[given], _state.hearing[1])


def shows(progress: object = None) -> Any:
    """Whether and how it is shown how far one call has come.

    Parameters
    ----------
    progress : object
        The keyword of the call; None where it does not give one.

    Returns
    -------
    object
        False, or what `ProgressBar` takes, or one.

    Raises
    ------
    ConfigError
        For a value that is not accepted.

    Examples
    --------
    >>> from manyhands import config
    >>> config.shows(), config.shows("tqdm")
    (False, 'tqdm')
    """
    if _state.merged is None:
        _state.merge()
    if progress is None:
        return _state.progress
    given = _settings.CHECKS["progress"](progress, "progress")
    return _state.progress if "progress" in _state.forced_keys else given


def is_chosen(key: str) -> bool:
    """Whether anybody has said what a setting is to be, so that it is not the default."""
    with _state.lock:
        return _state.find_checked(key)[1] != "default"


def forced() -> tuple[str, ...]:
    """The keys whose values in files and the environment win over keywords."""
    return _state.forced_keys


def resolve_seed(seed: object, *, is_single: bool) -> tuple[Any, int] | None:
    """The seed that holds for one call outside of any seeded task, and the number of its first task.

    Parameters
    ----------
    seed : object
        The keyword of the call; None where it does not give one.
    is_single : bool
        Whether the call is one of many that are submitted one by one. Those with the configured seed are numbered.

    Returns
    -------
    tuple or None
        An integer, a tuple of integers or a ``numpy.random.SeedSequence``, and the number.

    Raises
    ------
    ConfigError
        For a seed that is not accepted.

    Examples
    --------
    >>> from manyhands import config
    >>> config.resolve_seed(1, is_single=False)
    (1, 0)
    """
    if _state.merged is None:
        _state.merge()
    if seed is None or "seed" in _state.forced_keys:
        configured = _state.seed
        if configured is None:
            return None
        if not is_single:
            return configured.value, 0
        with _state.lock:
            number = configured.n_submitted
            configured.n_submitted += 1
        return configured.value, number
    given = _settings.CHECKS["seed"](seed, "seed")
    return None if given is None else (given.value, 0)
