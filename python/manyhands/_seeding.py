"""Streams of random numbers for tasks: which one a task has, and how its code finds it.

Imported with the first call that has a seed. The engine calls `enter` before a seeded task and `leave` after it.

A task's stream is ``numpy.random.SeedSequence(seed).spawn(n)[i]``. Its code meets it as the argument ``rng``, and in
the global states of `random`, `numpy.random` and torch, which are set from it. Those are one each for the whole
process: so they are set only where one task runs at a time, and put back to what they were.
"""

from __future__ import annotations

import marshal
import random
import sys
from _thread import _local, get_ident
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType

from manyhands import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

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
    entropy = seed.entropy
    entropy = entropy if isinstance(entropy, int) else tuple(int(part) for part in entropy)
    # What it has spawned so far is somebody else's.
    return Root(entropy, tuple(int(part) for part in seed.spawn_key), int(seed.n_children_spawned) + first)


def nested_root() -> Root | None:
    """The root for a call that the running task makes: a child of the task's stream, another one for each call."""
    task = current()
    return None if task is None else Root(task.root.entropy, task.child(), 0)


# Tasks


class _Task:
    """A seeded task that is running in this thread."""

    __slots__ = ("key", "late", "n_children", "outer", "restores", "root", "sequence", "words")

    def __init__(self, root: Root, number: int, outer: _Task | None) -> None:
        self.root = root
        self.key = (*root.key, root.first + number)
        self.outer = outer
        self.sequence: Any = None
        self.n_children = 0
        self.words: list[int] | None = None
        # What puts the global states back.
        self.restores: list[tuple[Callable[[Any], None], Any]] | None = None
        self.late: _Late | None = None

    def generator(self) -> Any:
        """NumPy's generator on the task's stream."""
        import numpy as np

        entropy = self.root.entropy
        words = list(entropy) if isinstance(entropy, tuple) else entropy
        self.sequence = np.random.SeedSequence(words, spawn_key=self.key, n_children_spawned=self.n_children)
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


def enter(
    root: Root, number: int, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, place: int
) -> tuple[_Task, dict[str, Any] | None]:
    """Set the scene for a task; what to call its function with by name."""
    task = _Task(root, number, current())
    if _wants_rng(function, args, kwargs):
        kwargs = {**kwargs, "rng": task.generator()} if kwargs else {"rng": task.generator()}
    _displace(task, place)
    _threads.task = task
    return task, kwargs


def leave(task: _Task) -> None:
    """Undo what `enter` did."""
    _threads.task = task.outer
    if task.restores is not None:
        _put_back(task)


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
        function, n_args = getattr(args[0], function.__name__, None), n_args - 1
    position = _position_of_rng(function)
    return position is not None and n_args <= position


_BY_NAME_ONLY = 1 << 30
_HAS_KEYWORDS = 0x08  # inspect.CO_VARKEYWORDS


def _position_of_rng(function: Any) -> int | None:
    """How many positional arguments come before the parameter ``rng``; None without one that has to be given."""
    if type(function) is FunctionType and not (
        # A decorator hands on what is named.
        hasattr(function, "__wrapped__") and function.__code__.co_flags & _HAS_KEYWORDS
    ):
        # What `inspect` says of a function that is only that, in a hundredth of the time.
        code = function.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if "rng" not in names[code.co_posonlyargcount :]:
            return None
        position = names.index("rng")
        return position if position < code.co_argcount else _BY_NAME_ONLY
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
_worker_restores: list[tuple[Callable[[Any], None], Any]] | None = None


def _displace(task: _Task, place: int) -> None:
    """Set the global states from the task's stream, if they can be its own."""
    global _innermost, _worker_restores
    if place == _THREAD or _native._is_of_pool():
        return
    # Calls in several threads of the user's: the states are those of the thread that came first.
    if _owner.setdefault("thread", get_ident()) != get_ident():
        return
    is_first_in_worker = place == _WORKER and _worker_restores is None
    task.words = _native._seed_words(task.root.words, _words(task.key), _N_WORDS)
    restores: list[tuple[Callable[[Any], None], Any]] | None = None
    if place == _HERE or is_first_in_worker:
        restores = []
    _innermost = task
    try:
        _watch_imports(task)
        for name in _SETTERS:
            if name in sys.modules:
                _set(name, task.words, restores)
    except BaseException:
        task.restores = restores
        _put_back(task)
        raise
    if place == _HERE:
        task.restores = restores
    elif is_first_in_worker:
        _worker_restores = restores


def _put_back(task: _Task) -> None:
    global _innermost
    if task.late is not None:
        sys.meta_path.remove(task.late)
    outer = task.outer
    while outer is not None and outer.words is None:
        outer = outer.outer
    _innermost = outer
    restores, task.restores = task.restores or [], None
    try:
        _restore(restores)
    finally:
        # Last of all: another thread would take what a task has set for what was there before.
        if outer is None:
            _owner.clear()


def _restore(restores: list[tuple[Callable[[Any], None], Any]]) -> None:
    """Put back all of these, the last first; also where Ctrl-C comes in between."""
    interrupt = None
    while restores:
        restore, state = restores[-1]
        try:
            restore(state)
            restores.pop()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def put_back_in_worker() -> None:
    """Before a task without a seed: give the worker back the states of its own."""
    global _innermost, _worker_restores
    restores, _worker_restores = _worker_restores or [], None
    _innermost = None
    try:
        _restore(restores)
    finally:
        _owner.clear()


def _set(name: str, words: list[int], restores: list[tuple[Callable[[Any], None], Any]] | None) -> None:
    restore, state = _SETTERS[name](words, restores is not None)
    if restores is not None:
        restores.append((restore, state))


def _integer(words: list[int]) -> int:
    return sum(word << 32 * i for i, word in enumerate(words))


def _set_random(words: list[int], is_kept: bool) -> tuple[Any, Any]:
    state = random.getstate() if is_kept else None
    random.seed(_integer(words[_FOR_RANDOM]))
    return random.setstate, state


def _set_numpy(words: list[int], is_kept: bool) -> tuple[Any, Any]:
    numbers = sys.modules["numpy.random.mtrand"]._rand
    bit_generator = numbers._bit_generator
    state = (bit_generator, numbers.get_state(legacy=False)) if is_kept else None
    kind: Any = sys.modules["numpy.random"].MT19937
    if type(bit_generator) is not kind:
        # The user has put another one in its place, which cannot be seeded.
        sys.modules["numpy.random"].set_bit_generator(kind(0))
    numbers.seed(words[_FOR_NUMPY])
    return _restore_numpy, state


def _restore_numpy(kept: tuple[Any, Any]) -> None:
    numbers = sys.modules["numpy.random.mtrand"]._rand
    bit_generator, state = kept
    if numbers._bit_generator is not bit_generator:
        sys.modules["numpy.random"].set_bit_generator(bit_generator)
    numbers.set_state(state)


def _set_torch(words: list[int], is_kept: bool) -> tuple[Any, Any]:
    torch = sys.modules["torch"]
    # Only where it is in use already: asking for it takes seconds, and cannot be done in a forked process.
    devices = torch.cuda if torch.cuda.is_initialized() else None
    state = None
    if is_kept:
        state = (torch.default_generator.get_state(), devices and devices.get_rng_state_all())
    seed = _integer(words[_FOR_TORCH])
    torch.default_generator.manual_seed(seed)
    if devices:
        devices.manual_seed_all(seed)
    return _restore_torch, state


def _restore_torch(kept: tuple[Any, Any]) -> None:
    torch = sys.modules["torch"]
    state, states = kept
    torch.default_generator.set_state(state)
    if states:
        torch.cuda.set_rng_state_all(states)


# By the module whose global state it is. `numpy.random` is not always imported with `numpy`.
_SETTERS: dict[str, Callable[[list[int], bool], tuple[Any, Any]]] = {
    "random": _set_random,
    "numpy.random.mtrand": _set_numpy,
    "torch": _set_torch,
}


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
        for finder in sys.meta_path:
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and _innermost is not None:
                    spec.loader = _LateLoader(spec.loader)
                return spec
        return None


class _LateLoader:
    """The loader of such a module, until the module has been executed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        name = _LATE[module.__name__]
        if _innermost is not None and _owner.get("thread") == get_ident() and name in sys.modules:
            _catch_up(name, _innermost)


def _catch_up(name: str, innermost: _Task) -> None:
    """Do for a module that has just been imported what has been done for others at the start of each running task."""
    running = []
    task: _Task | None = innermost
    while task is not None:
        running.append(task)
        task = task.outer
    for task in reversed(running):
        if task.words is not None:
            # A task without a list of its own is a worker's; what is restored after those is kept together.
            _set(name, task.words, _worker_restores if task.restores is None else task.restores)
