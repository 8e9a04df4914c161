"""Objects to bytes and back: plain pickle where it is enough, cloudpickle where it is not.

Plain pickle stores functions and classes by reference, as a module and a name. A worker can follow such a reference
only into a module that it can import itself: not into ``__main__``, and not into a module that was made in this
process. Bytes that hold a reference of that kind are thrown away, and cloudpickle stores the object by value.
"""

from __future__ import annotations

import _pickle as pickle  # the part in C: the module around it takes as long to import as all of manyhands
import copyreg
import os
import sys
from _thread import RLock
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

from manyhands import _function_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands import _native
    from manyhands.errors import PicklingError

__all__ = ["dumps", "dumps_function", "dumps_result", "fail", "is_portable", "leads_to_local", "loads"]

PROTOCOL = 5

loads = pickle.loads


def dumps(obj: object, sink: _native.Sink | None = None, is_local: bool = False) -> bytes:
    """Pickle an argument or a result so that another process can load it; large buffers go to `sink`.

    With `is_local`, no plain pickle is tried: the object is known to lead to what only this process has.

    Raises
    ------
    PicklingError
        Where neither pickle nor cloudpickle can; it says which part of the object is to blame.
    """
    try:
        return _dumps(obj, sink, is_local=is_local)
    except MemoryError:
        raise
    except Exception as error:
        raise fail("object", obj, error) from error


def dumps_result(obj: object, sink: _native.Sink | None = None, is_local: bool = False) -> bytes:
    """Pickle what a task has returned or raised, for the process that the worker works for; large buffers go to `sink`.

    A forked worker has the classes and functions of its parent's main module. They go back as what they are there, by
    their names: by value they would come back as copies, and an exception of the program's would not be caught.

    Raises
    ------
    PicklingError
        Where neither pickle nor cloudpickle can; it says which part of the object is to blame.
    """
    try:
        return _dumps(obj, sink, by_name=bool(_inherited), is_local=is_local)
    except MemoryError:
        raise
    except Exception as error:
        raise fail("object", obj, error) from error


def dumps_function(function: Callable[..., Any], sink: _native.Sink | None = None) -> bytes:
    """Pickle the function of a task so that another process can load it; large buffers go to `sink`.

    By reference where a worker's own import finds this very function; by value for lambdas, closures, functions of
    ``__main__`` and functions whose name means something else by now, such as one replaced by its decorator.

    Raises
    ------
    PicklingError
        Where the function cannot be pickled; it says which part of it is to blame.
    """
    is_by_value_registered = _by_value_registered()
    guarded = getattr(type(function), "_guarded", None)
    inside, wrapper = (function, None) if guarded is None else guarded(function)
    known = None if is_by_value_registered else _function_cache.recall(inside, wrapper)
    if known is not None:
        return known
    for part in _functions_inside(function):
        module_name = part.__module__
        if isinstance(module_name, str):
            _note_if_local(module_name)
    try:
        data = _dumps(function, sink)
    except MemoryError as error:
        raise no_memory(f"function {name_of(function)!r}", None, error)  # noqa: B904 - it is the same
    except Exception as error:
        raise fail(f"function {name_of(function)!r}", function, error) from error
    if not is_by_value_registered:
        _function_cache.keep(inside, data, _local.__contains__, wrapper)
    return data


def is_portable(data: bytes) -> bool:
    """Whether every module that a plain pickle refers to can be imported by a worker, as far as its bytes tell.

    Errs on the safe side: text in the data that looks like the name of such a module gives ``False``.
    """
    if b"__main__" in data or _by_value_registered():
        return False
    local = _local_modules()
    # Called for every value, and there is hardly ever such a module.
    return not local or not any(name in data for name in local)


def leads_to_local(obj: object) -> bool:
    """Whether an object, whose plain pickle has the name of a local module in it, leads to something of that module."""
    _local_modules()  # what the object leads to may be new
    return _is_any_local(obj)


def _dumps(obj: object, sink: _native.Sink | None, *, by_name: bool = False, is_local: bool = False) -> bytes:
    """Pickle by the cheapest way that is right; raises whatever the picklers raise."""
    data: bytes | None
    if sink is not None:
        sink.clear()  # what the engine's own attempt has left there
    try:
        if is_local:
            data = None
        else:
            data = pickle.dumps(obj, PROTOCOL) if sink is None else _dump_apart(obj, sink)
    except MemoryError:
        raise
    except Exception:  # cloudpickle knows more types; if it fails too, its error is the one that counts
        data = None
    if data is not None and (is_portable(data) or not _is_any_local(obj)):
        return data
    _local_modules()  # what the object leads to may be new
    if sink is not None:
        sink.clear()  # what the first attempt has left there
    with _LocalModulesByValue():
        return _dump_by_value(obj, by_name) if sink is None else _dump_apart_by_value(obj, sink, by_name)


class _FoundLocal(Exception):
    """Something is stored by reference that no worker can import."""


class _Nowhere:
    """A file that keeps nothing."""

    write = staticmethod(len)


class _Looking(pickle.Pickler):
    """Meets all that a plain pickle stores by reference."""

    def reducer_override(self, obj: object) -> Any:
        module = getattr(obj, "__module__", None)
        if type(module) is str and (module == "__main__" or module in _local):
            raise _FoundLocal
        return NotImplemented


def _is_any_local(obj: object) -> bool:
    """Whether a plain pickle of an object refers to something local, rather than having its name in a text.

    Texts are not rare: Python's own list of warning filters, which scikit-learn sends along with each task, names
    ``__main__``. Looking twice takes a tenth of what cloudpickle takes.
    """
    if _by_value_registered():
        return True
    try:
        _Looking(_Nowhere(), PROTOCOL, buffer_callback=lambda _: None).dump(obj)
    except _FoundLocal:
        return True
    except Exception:  # whatever it is, cloudpickle will say it
        return True
    return False


def _dump_apart(obj: object, sink: _native.Sink) -> bytes:
    """A plain pickle; the sink has its large buffers, and the large bytes in it."""
    from manyhands import _native

    pickler = pickle.Pickler(sink, PROTOCOL, buffer_callback=sink)
    pickler.dispatch_table = _native.Reducers(sink, copyreg.dispatch_table)  # type: ignore[assignment]  # all it needs
    pickler.dump(obj)
    return sink.take_pickle()


def _dump_by_value(obj: object, by_name: bool) -> bytes:
    """A pickle by cloudpickle; if `by_name`, what was inherited by its name."""
    import io

    file = io.BytesIO()
    pickler = _new_pickler(by_name)
    # Read once, by what follows.
    pickler.dispatch_table = _by_value_reducers()
    pickler.__init__(file, PROTOCOL)
    pickler.dump(obj)
    return file.getvalue()


def _dump_apart_by_value(obj: object, sink: _native.Sink, by_name: bool) -> bytes:
    """The same; the sink has its large buffers, and the large bytes in it."""
    from manyhands import _native

    pickler = _new_pickler(by_name)
    pickler.dispatch_table = _native.Reducers(sink, _by_value_reducers())
    pickler.__init__(sink, PROTOCOL, sink)
    pickler.dump(obj)
    return sink.take_pickle()


def _new_pickler(by_name: bool) -> Any:
    """One of cloudpickle's picklers, not set up yet."""
    import cloudpickle

    if not by_name:
        return cloudpickle.Pickler.__new__(cloudpickle.Pickler)

    class ByName(cloudpickle.Pickler):  # type: ignore[misc]  # a class of no known type
        """Refers to what was inherited."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (type, FunctionType)) and _is_inherited(obj):
                return obj.__qualname__
            return super().reducer_override(obj)

    return ByName.__new__(ByName)


# In a forked worker: the classes and functions of the main module by their names there, as they were at the fork.
_inherited: dict[str, Any] = {}


def inherit() -> None:
    """Take note, in a forked worker, of what its parent's main module defines."""
    main = sys.modules.get("__main__")
    _inherited.clear()
    if main is not None:
        _inherited.update(
            {name: value for name, value in vars(main).items() if isinstance(value, (type, FunctionType))}
        )


def _is_inherited(obj: Any) -> bool:
    """Whether a class or a function is still what its name means here, and meant at the fork."""
    if getattr(obj, "__module__", None) != "__main__":
        return False
    root, *parts = obj.__qualname__.split(".")
    for names in (_inherited, vars(sys.modules["__main__"])):
        found = names.get(root)
        for part in parts:
            found = getattr(found, part, None)
        if found is not obj:
            return False
    return True


def _by_value_reducers() -> Any:
    """How cloudpickle pickles objects, by their types, and code as this module has it."""
    import collections

    import cloudpickle

    return collections.ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


# What newer versions of cloudpickle put in the place of the file that code is from.
_NO_FILE = "<dynamic-code>"


def _reduce_code(code: CodeType) -> Any:
    """What code is pickled as: with the file that it is from, for tracebacks to name the line."""
    import cloudpickle

    rebuild, args, *rest = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # A string of its own, as cloudpickle makes of each: which strings are one object is a matter of chance.
    args = tuple("".join(code.co_filename) if arg == _NO_FILE and type(arg) is str else arg for arg in args)
    return rebuild, args, *rest


# Which modules exist in this process only


_lock = RLock()
# Names of modules that a worker cannot import, as bytes ready to be searched for in a pickle.
_local: dict[str, bytes] = {}
_importable: dict[str, bool] = {}
# Packages that need no such look.
_installed: set[str] = set()
_local_seen: tuple[int, str | None] = (0, None)


def _note_if_local(module_name: str) -> None:
    """Remember `module_name` as local to this process where a worker's import would not find its package.

    Only the outermost package is looked up: what a package puts into ``sys.modules`` under its own name exists again
    once a worker has imported the package.
    """
    root = module_name.partition(".")[0]
    importable = _importable.get(root)
    if importable is None:
        importable = _importable[root] = _is_importable(root)
    if not importable and module_name in sys.modules:
        _local[module_name] = module_name.encode("utf-8", "surrogatepass")


def _is_importable(root: str) -> bool:
    module = sys.modules.get(root)
    if module is not None and _is_made_here(module):
        return False
    loaded = getattr(module, "__spec__", None)
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None:
            continue
        found = find_spec(root, None)
        if found is not None:
            origin = getattr(loaded, "origin", None)
            return origin is None or found.origin is None or origin == found.origin
    return False


def _is_installed(root: str, places: set[str]) -> bool:
    """Whether a package is a part of Python or lies where packages are installed, so that every worker finds it."""
    return _is_installed_spec(getattr(sys.modules.get(root), "__spec__", None), places)


def _is_installed_spec(spec: object, places: set[str]) -> bool:
    """The same, of a package that need not be imported."""
    folders = getattr(spec, "submodule_search_locations", None)
    location = next(iter(folders), None) if folders else getattr(spec, "origin", None)
    # What is built in or frozen has no folder.
    return not isinstance(location, str) or not os.path.isabs(location) or os.path.dirname(location) in places


def _installed_places() -> set[str]:
    """The folders of the import path that hold Python itself or installed packages."""
    library = os.path.dirname(os.__file__)
    return {
        entry
        for entry in sys.path
        if isinstance(entry, str) and (entry.startswith(library) or entry.endswith(("site-packages", "dist-packages")))
    }


def _is_made_here(module: object) -> bool:
    """Whether a package was put into ``sys.modules`` by hand: no finder, no file."""
    return getattr(module, "__spec__", None) is None and getattr(module, "__file__", None) is None


def _local_modules() -> list[bytes]:
    """The names of the modules known to exist in this process only.

    Rescans ``sys.modules`` when it has grown or shrunk since the last call, or its newest name is another.
    """
    global _local_seen
    modules = sys.modules
    seen: tuple[int, str | None]
    try:
        seen = (len(modules), next(reversed(modules)))
    except (RuntimeError, StopIteration):  # another thread is importing: scan, and let the next call scan again
        seen = (0, None)
    if seen != _local_seen or seen[1] is None:
        with _lock:
            places = _installed_places()
            for name in list(modules):
                root = name.partition(".")[0]
                if root == "__main__":
                    continue
                if _is_made_here(modules.get(root)):
                    _importable.pop(root, None)
                    _installed.discard(root)
                    _note_if_local(name)
                elif root in _installed:
                    continue
                elif _is_installed(root, places):
                    _installed.add(root)
                else:
                    _note_if_local(name)
            for name in [name for name in list(_local) if name not in modules]:
                del _local[name]
            _local_seen = seen
    return list(_local.values())


def _by_value_registered() -> bool:
    """Whether the user asked cloudpickle to store some module by value, which plain pickle knows nothing of."""
    if sys.modules.get("cloudpickle") is None:
        return False
    # Another thread may be in the middle of importing it: this waits.
    import cloudpickle

    return bool(cloudpickle.list_registry_pickle_by_value())


# How many threads have a module of this process registered with cloudpickle just now.
_by_value_users: dict[str, int] = {}


class _LocalModulesByValue:
    """While active, cloudpickle stores what belongs to a module of this process alone by value.

    cloudpickle keeps one registry per process, so overlapping uses in several threads are counted; the lock is not
    held while the pickler runs code of the user.
    """

    def __enter__(self) -> None:
        import cloudpickle

        self._modules: list[ModuleType] = []
        if not _local:
            return
        with _lock:
            known = cloudpickle.list_registry_pickle_by_value()
            for name in list(_local):
                module = sys.modules.get(name)
                if not isinstance(module, ModuleType) or module.__name__ != name:
                    continue
                if name in known and name not in _by_value_users:
                    continue  # the user's own registration: not ours to end
                cloudpickle.register_pickle_by_value(module)
                _by_value_users[name] = _by_value_users.get(name, 0) + 1
                self._modules.append(module)

    def __exit__(self, *exc_info: object) -> None:
        import cloudpickle

        with _lock:
            for module in self._modules:
                name = module.__name__
                n_users = _by_value_users.pop(name, 0)
                if n_users > 1:
                    _by_value_users[name] = n_users - 1
                elif n_users == 1:  # 0 in a child forked meanwhile, where nothing is registered any more
                    cloudpickle.unregister_pickle_by_value(module)


def _after_fork() -> None:
    """In a forked child: the threads that held the lock and had modules registered are not there."""
    global _lock
    _lock = RLock()
    if _by_value_users:
        import cloudpickle

        for name in cloudpickle.list_registry_pickle_by_value() & _by_value_users.keys():
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
        _by_value_users.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _functions_inside(function: object) -> list[type | FunctionType]:
    """The functions and classes that a callable leads to, through partials and bound methods; bounded."""
    found: list[type | FunctionType] = []
    for _ in range(16):
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, partial):
            function = function.func
        else:
            # Wrappers of ours say what they wrap.
            inside = getattr(type(function), "_functions", None)
            for part in inside.__get__(function) if isinstance(inside, property) else ():
                found += _functions_inside(part)
            found.append(function if isinstance(function, (type, FunctionType)) else type(function))
            break
    return found


def name_of(function: object) -> str:
    """The name to report a callable under."""
    if isinstance(function, BuiltinFunctionType):
        return function.__qualname__
    return _functions_inside(function)[-1].__qualname__


def _or_fork(what: str) -> str:
    """The other scheduler that would do: it pickles results only."""
    return "" if "result" in what else ', or scheduler="fork" (Linux), where functions and arguments are not'


def no_memory(what: str, function: Callable[..., Any] | None, cause: MemoryError) -> MemoryError:
    """The error for something that there is no memory to send, as it is raised; it is no fault of the thing's."""
    from manyhands._failures import _add_note

    where = "" if function is None else f" of {name_of(function)!r}"
    _add_note(cause, f"While preparing {what}{where} for a worker process.")
    return cause


def fail(what: str, obj: object, cause: BaseException) -> PicklingError:
    """Build the error to raise for something that cannot be pickled.

    Parameters
    ----------
    what : str
        Which object it is: ``"argument 2"``, ``"argument 'model'"``, ``"function 'fit'"``, ``"result"``.
    obj : object
        The object.
    cause : BaseException
        What the pickler raised; where that is a `PicklingError` of this function already, its findings are reused.

    Returns
    -------
    PicklingError
        Not raised yet; its ``__cause__`` is the pickler's own exception.
    """
    from manyhands import _culprit
    from manyhands.errors import PicklingError

    if isinstance(cause, PicklingError) and cause.reason:
        path, reason = cause.path, cause.reason
        cause = cause.__cause__ or cause
    else:
        with _LocalModulesByValue():
            path, reason = _culprit.find(obj, cause)
    message = (
        f"{what} (of type {_culprit.type_name(obj)}) cannot be pickled, so it cannot pass between processes.\n"
        f"  {what}{' -> ' if path else ''}{path}: {reason}\n"
        'Make that part inside the task, leave it out in __getstate__, or use scheduler="threads", '
        f"where nothing is pickled{_or_fork(what)}."
    )
    error = PicklingError(message, what, path, reason)
    error.__cause__ = cause
    return error
