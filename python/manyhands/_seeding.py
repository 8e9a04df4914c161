"""Streams of random numbers for tasks: which one a task has, and how its code finds it.

Imported with the first call that has a seed. The engine calls `enter` before a seeded task and `leave` after it.

A task's stream is ``numpy.random.SeedSequence(seed).spawn(n)[i]``. Its code meets it as the argument ``rng``, and in
the global states of `random`, `numpy.random` and torch, which are set from it. Those are one each for the whole
process: so they are set only where one task runs at a time, and put back to what they were.
"""

from __future__ import annotations

import marshal
import operator
import random
import sys
from _thread import _local, get_ident
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType

from manyhands import _native
from manyhands._signals import HeldSignals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    _Restores = dict[str, tuple[Callable[[Any], None], Any]]

# As the engine numbers them, in crates/python/src/seeding.rs.
_HERE, _THREAD, _WORKER = range(3)

# What a stream's first words are for. Each generator has words of its own: NumPy's and Python's are the same one, and
# from the same seed would give the same numbers.
_FOR_NUMPY = slice(0, 4)
_FOR_RANDOM = slice(4, 8)
_FOR_TORCH = slice(8, 10)
_N_WORDS = 10


class Root:
    """What the streams of one call's tasks descend from: stream i is the child number ``first + i``."""

    __slots__ = ("entropy", "first", "key", "packed", "words")

    def __init__(self, entropy: int | tuple[int, ...], key: tuple[int, ...], first: int) -> None:
        self.entropy = entropy
        self.key = key
        self.first = first
        self.words = _words(entropy if isinstance(entropy, tuple) else (entropy,))
        self.packed = marshal.dumps((entropy, key, first))

    def of_rest(self, n_tasks: int) -> Root:
        """The root for what comes after so many tasks."""
        return Root(self.entropy, self.key, self.first + n_tasks)


def unpack(packed: bytes) -> Root:
    """What `Root.packed` stands for."""
    return Root(*marshal.loads(packed))


def _words(integers: Sequence[int]) -> list[int]:
    """Integers as NumPy's seed sequences take them: 32 bits at a time, the lowest first."""
    words = []
    for integer in integers:
        words.append(integer & 0xFFFFFFFF)
        while integer := integer >> 32:
            words.append(integer & 0xFFFFFFFF)
    return words


def root(seed: Any, first: int = 0) -> Root:
    """The root for a seed that the configuration has accepted; its tasks begin with number `first`."""
    if isinstance(seed, (int, tuple)):
        return Root(seed, (), first)
    entropy = _entropy(seed.entropy)
    # What it has spawned so far is somebody else's.
    return Root(entropy, tuple(int(part) for part in seed.spawn_key), int(seed.n_children_spawned) + first)


def _entropy(entropy: Any) -> int | tuple[int, ...]:
    """A seed sequence's own, in plain integers."""
    try:
        return operator.index(entropy)
    except TypeError:
        return tuple(int(part, 0) if isinstance(part, str) else operator.index(part) for part in entropy)


def nested_root() -> Root | None:
    """The root for a call that the running task makes: a child of the task's stream, another one for each call."""
    task = current()
    return None if task is None else Root(task.root.entropy, task.child(), 0)


# Tasks


class _Task:
    """A seeded task that is running in this thread."""

    __slots__ = (
        "has_states",
        "is_entered",
        "is_left",
        "key",
        "late",
        "n_children",
        "outer",
        "restores",
        "root",
        "sequence",
        "words",
    )

    def __init__(self, root: Root, number: int, outer: _Task | None) -> None:
        self.root = root
        self.key = (*root.key, root.first + number)
        self.outer = outer
        self.sequence: Any = None
        self.n_children = 0
        self.is_entered = self.is_left = False
        # Whether the global states are its own, and the words they are made from.
        self.has_states = False
        self.words: list[int] = []
        # What puts the global states back, by module, where that is done after each task.
        self.restores: _Restores | None = None
        self.late: _Late | None = None

    def generator(self) -> Any:
        """NumPy's generator on the task's stream."""
        import numpy as np

        from manyhands._lazy_seeds import LazySeeds

        root = self.root
        number = self.key[-1]
        states: Any = np.frombuffer(_native._seed_states(root.words, _words(root.key), number, 1), np.uint64)
        entropy = list(root.entropy) if isinstance(root.entropy, tuple) else root.entropy
        self.sequence = LazySeeds(states, 0, entropy, root.key, number, self.n_children)
        return np.random.Generator(np.random.PCG64(self.sequence))

    def child(self) -> tuple[int, ...]:
        """The key of a stream below this one that nobody else is given, not by ``rng.spawn`` either."""
        if self.sequence is not None:
            return tuple(self.sequence.spawn(1)[0].spawn_key)
        self.n_children += 1
        return (*self.key, self.n_children - 1)


_threads = _local()


def current() -> _Task | None:
    """The seeded task that is running in this thread."""
    return getattr(_threads, "task", None)


def new_task(root: Root, number: int) -> _Task:
    """A task, for `enter` and `leave`."""
    return _Task(root, number, current())


# Those whose handlers people write to raise something.
_SIGNALS = ("SIGINT", "SIGALRM", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def _hold_signals() -> HeldSignals:
    import _signal

    held = HeldSignals()
    try:
        held.begin([getattr(_signal, name) for name in _SIGNALS if hasattr(_signal, name)])
    except BaseException:
        held.end()
        raise
    return held


def enter(
    task: _Task, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, place: int
) -> dict[str, Any] | None:
    """Set the scene for a task; what to call its function with by name. Whatever it raises, `leave` is to follow."""
    held = _hold_signals()
    try:
        if _wants_rng(function, args, kwargs):
            kwargs = {**kwargs, "rng": task.generator()} if kwargs else {"rng": task.generator()}
        task.is_entered = True
        _threads.task = task
        _displace(task, place)
    finally:
        held.end()
    return kwargs


def begin_again(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Set the scene once more for a function that the running task calls again; the arguments it has by name."""
    task = current()
    if task is None:
        return kwargs
    task.n_children = 0
    if task.sequence is not None:
        kwargs = {**kwargs, "rng": task.generator()}
    if task.has_states and _innermost is task:
        for name in _STATES:
            _set(name, task)
    return kwargs


def leave(task: _Task) -> None:
    """Undo what `enter` did. To be called again until `task.is_left`: a signal may come before it has begun."""
    held = _hold_signals()
    try:
        if task.is_entered and not task.is_left:
            _threads.task = task.outer
            _put_back(task)
        task.is_left = True
    finally:
        held.end()


def forget() -> None:
    """In a forked process: what was running in the parent is not running here."""
    global _innermost, _worker_restores
    _threads.task = None
    _owner.clear()
    _innermost = _worker_restores = None


# The argument


def _wants_rng(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Whether a function has a parameter ``rng`` that the call leaves open."""
    if type(function) is BuiltinFunctionType or (kwargs and "rng" in kwargs):
        return False
    n_args = len(args)
    if type(function) is _native.MethodCaller:
        # Statically: asking the object runs the code of its properties, which the call itself will do.
        method = _static_attribute(type(args[0]), function.__name__)
        if isinstance(method, (staticmethod, classmethod)):
            function, n_args = method.__func__, n_args - isinstance(method, staticmethod)
        else:
            function = method
    position = _position_of_rng(function)
    return position is not None and n_args <= position


_BY_NAME_ONLY = 1 << 30
_HAS_KEYWORDS = 0x08  # inspect.CO_VARKEYWORDS


def _static_attribute(kind: type, name: str) -> Any:
    """What a class has under a name, without running any code of it."""
    import inspect

    return inspect.getattr_static(kind, name, None)


def _position_of_rng(function: Any) -> int | None:
    """How many positional arguments come before the parameter ``rng``; None without one, or with a default of its own.

    A default of None stands for one that has to be given.
    """
    if (
        type(function) is FunctionType
        and not hasattr(function, "__signature__")
        and not (
            # A decorator hands on what is named.
            hasattr(function, "__wrapped__") and function.__code__.co_flags & _HAS_KEYWORDS
        )
    ):
        # What `inspect` says of a function that is only that, in a hundredth of the time.
        code = function.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if "rng" not in names[code.co_posonlyargcount :]:
            return None
        position = names.index("rng")
        if position < code.co_argcount:
            defaults = function.__defaults__ or ()
            at = position - code.co_argcount + len(defaults)
            return position if at < 0 or defaults[at] is None else None
        return _BY_NAME_ONLY if (function.__kwdefaults__ or {}).get("rng") is None else None
    if type(function) is MethodType:
        position_there = _position_of_rng(function.__func__)
        return None if position_there is None else position_there - 1
    if isinstance(function, partial):
        position_there = None if "rng" in function.keywords else _position_of_rng(function.func)
        return None if position_there is None else position_there - len(function.args)
    import inspect

    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code that does not say
        return None
    if "rng" not in parameters or parameters["rng"].kind is inspect.Parameter.POSITIONAL_ONLY:
        return None
    if parameters["rng"].default not in (None, inspect.Parameter.empty):
        return None
    if parameters["rng"].kind is inspect.Parameter.KEYWORD_ONLY:
        return _BY_NAME_ONLY
    return list(parameters).index("rng")


# The global states

# The thread whose tasks they belong to, if there is one, and the innermost of these tasks. A dictionary, as that can be
# asked and changed in one step.
_owner: dict[str, int] = {}
_innermost: _Task | None = None
# In a worker: what puts them back to what they were before its first seeded task. Between two seeded tasks nobody needs
# them.
_worker_restores: _Restores | None = None


def _displace(task: _Task, place: int) -> None:
    """Set the global states from the task's stream, if they can be its own."""
    global _innermost, _worker_restores
    if place == _THREAD or _native._is_of_pool():
        return
    # Calls in several threads of the user's: the states are those of the thread that came first. Where that leads to
    # numbers that cannot be repeated, the engine reports it (crates/python/src/misuse.rs).
    if _owner.setdefault("thread", get_ident()) != get_ident():
        return
    task.has_states = True
    _innermost = task
    if place == _HERE:
        task.restores = {}
    elif _worker_restores is None:
        _worker_restores = {}
    task.words = _native._seed_words(task.root.words, _words(task.key), _N_WORDS)
    _watch_imports(task)
    for name in _STATES:
        _set(name, task)


def _put_back(task: _Task) -> None:
    global _innermost
    if not task.has_states:
        return
    outer = task.outer
    while outer is not None and not outer.has_states:
        outer = outer.outer
    _innermost = outer
    restores, task.restores = task.restores or {}, None
    try:
        _restore(restores)
    finally:
        # Last of all: another thread would take what a task has set for what was there before.
        if outer is None:
            _owner.clear()
        # Tasks may do what they like with the list.
        if task.late is not None and task.late in sys.meta_path:
            sys.meta_path.remove(task.late)


def _restore(restores: _Restores) -> None:
    """Put back all of these, the last first."""
    while restores:
        _, (restore, state) = restores.popitem()
        _native._settle_draws()
        restore(state)
        _native._note_states()


def put_back_in_worker() -> None:
    """Before a task without a seed: give the worker back the states of its own."""
    global _innermost, _worker_restores
    restores, _worker_restores = _worker_restores or {}, None
    _innermost = None
    try:
        _restore(restores)
    finally:
        _owner.clear()


def _set(name: str, task: _Task) -> None:
    """Set one global state from a task's stream, if it is there; what it was is kept first."""
    module = sys.modules.get(name)
    if not all(hasattr(module, needed) for needed in _NEEDED[name]):
        return
    # A task without a list of its own is a worker's.
    restores = _worker_restores if task.restores is None else task.restores
    keep, seed = _STATES[name]
    if restores is not None and name not in restores:
        restores[name] = keep(module)
    _native._settle_draws()
    seed(module, task.words)
    _native._note_states()


def _integer(words: list[int]) -> int:
    return sum(word << 32 * i for i, word in enumerate(words))


def _keep_random(_module: Any) -> tuple[Callable[[Any], None], Any]:
    return random.setstate, random.getstate()


def _seed_random(_module: Any, words: list[int]) -> None:
    random.seed(_integer(words[_FOR_RANDOM]))


def _keep_numpy(module: Any) -> tuple[Callable[[Any], None], Any]:
    numbers = module._rand
    return _restore_numpy, (numbers._bit_generator, numbers.get_state(legacy=False))


def _seed_numpy(module: Any, words: list[int]) -> None:
    numbers = module._rand
    kind: Any = sys.modules["numpy.random"].MT19937
    if type(numbers._bit_generator) is not kind:
        # The user has put another one in its place, which cannot be seeded.
        sys.modules["numpy.random"].set_bit_generator(kind(0))
    numbers.seed(words[_FOR_NUMPY])


def _restore_numpy(kept: tuple[Any, Any]) -> None:
    numbers = sys.modules["numpy.random.mtrand"]._rand
    bit_generator, state = kept
    if numbers._bit_generator is not bit_generator:
        sys.modules["numpy.random"].set_bit_generator(bit_generator)
    numbers.set_state(state)


def _devices(torch: Any) -> Any:
    # Only where they are in use already: asking for them takes seconds, and cannot be done in a forked process.
    return torch.cuda if torch.cuda.is_initialized() else None


def _keep_torch(torch: Any) -> tuple[Callable[[Any], None], Any]:
    devices = _devices(torch)
    return _restore_torch, (torch.default_generator.get_state(), devices and devices.get_rng_state_all())


def _seed_torch(torch: Any, words: list[int]) -> None:
    seed = _integer(words[_FOR_TORCH])
    torch.default_generator.manual_seed(seed)
    devices = _devices(torch)
    if devices:
        devices.manual_seed_all(seed)


def _restore_torch(kept: tuple[Any, Any]) -> None:
    torch = sys.modules["torch"]
    state, states = kept
    torch.default_generator.set_state(state)
    if states:
        torch.cuda.set_rng_state_all(states)


# By the module whose global state it is. `numpy.random` is not always imported with `numpy`.
_STATES: dict[str, tuple[Callable[[Any], tuple[Callable[[Any], None], Any]], Callable[[Any, list[int]], None]]] = {
    "random": (_keep_random, _seed_random),
    "numpy.random.mtrand": (_keep_numpy, _seed_numpy),
    "torch": (_keep_torch, _seed_torch),
}
# What a module has once it is one of that name, and has been imported to its end.
_NEEDED = {"random": ("seed",), "numpy.random.mtrand": ("_rand",), "torch": ("default_generator", "cuda")}


# Modules that a task is the first to import. Their global states come with them, seeded by the system.

_LATE = {"numpy.random": "numpy.random.mtrand", "torch": "torch"}


def _watch_imports(task: _Task) -> None:
    if all(name in sys.modules for name in _LATE) or any(type(finder) is _Late for finder in sys.meta_path):
        return
    finder = _Late()
    sys.meta_path.insert(0, finder)
    # In a worker it stays.
    task.late = finder


class _Late:
    """Has the global state of a module set from the running task's stream when it has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _LATE:
            return None
        from manyhands._late import LateLoader, find_spec_behind

        spec = find_spec_behind(self, name, path, target)
        if spec is not None and spec.loader is not None and _innermost is not None:
            spec.loader = LateLoader(spec.loader, _imported)
        return spec


def _imported(module: Any) -> None:
    name = _LATE[module.__name__]
    if _innermost is not None and _owner.get("thread") == get_ident():
        _catch_up(name, _innermost)


def _catch_up(name: str, innermost: _Task) -> None:
    """Do for a module that has just been imported what has been done for others at the start of each running task."""
    running = []
    task: _Task | None = innermost
    while task is not None:
        running.append(task)
        task = task.outer
    for task in reversed(running):
        if task.has_states:
            _set(name, task)
