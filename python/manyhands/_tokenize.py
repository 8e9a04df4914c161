"""Names values by their content: equal tokens mean equal values, in every process and every run.

A value is encoded as bytes that say its type and its content and where they end, so that no two different values share
an encoding; the token is a digest of those bytes. Objects of other types are taken apart as pickle would take them
apart, and each part is encoded in turn: unlike a pickle's own bytes this does not depend on the order of sets and
dicts, nor on which equal strings happen to be one object. What cannot be taken apart gets a token of its own each
time, because a wrong "different" costs a computation and a wrong "equal" costs the result.
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["tokenize"]

_DIGEST_BYTES = 16


def tokenize(*args: object) -> str:
    """A token for the content of the arguments.

    Returns
    -------
    str
        32 hexadecimal digits; the same for equal arguments, wherever and whenever they are made.

    Examples
    --------
    >>> tokenize(1, "a") == tokenize(1, "a")
    True
    >>> len({tokenize(1), tokenize(1.0), tokenize(True), tokenize("1")})
    4
    """
    try:
        data = _Encoder().all(args)
    except RecursionError:
        data = _unique()
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _unique() -> bytes:
    import os

    return b"?" + os.urandom(_DIGEST_BYTES)


def _sized(tag: bytes, payload: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(payload), payload)


# Values that are their own encoding


def _str(value: str) -> bytes:
    return _sized(b"s", value.encode("utf-8", "surrogatepass"))


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    type(Ellipsis): lambda value: b"E",
    type(NotImplemented): lambda value: b"X",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: _sized(b"i", b"%x" % value),
    float: lambda value: b"f" + struct.pack("<d", value),
    complex: lambda value: b"c" + struct.pack("<dd", value.real, value.imag),
    str: _str,
    bytes: lambda value: _sized(b"b", value),
}


class _Encoder:
    """Encodes the parts of one call of `tokenize`.

    Every compound object is encoded once, as the digest of its parts. In a cycle that is not possible for all of them:
    a reference to an object that is still being encoded (``^``) is encoded as how far up the path it is, and one to an
    object that was encoded inside the cycle at hand (``&``) as how many such objects ago that was. Both lose their
    meaning outside the cycle, so the objects of a cycle are forgotten as soon as its topmost object is done.
    """

    def __init__(self) -> None:
        # Objects are kept beside what is known of them, so that their ids stay their own.
        self._done: dict[int, tuple[object, bytes]] = {}
        self._in_cycle: dict[int, tuple[object, int, int]] = {}
        self._path: dict[int, int] = {}
        # The smallest depth that the object being encoded refers back to.
        self._reach = 0

    def one(self, obj: object) -> bytes:
        """The encoding of an object; where it ends can be told from the bytes themselves."""
        scalar = _SCALARS.get(type(obj))
        if scalar is not None:
            return scalar(obj)
        identity = id(obj)
        if identity in self._done:
            return self._done[identity][1]
        depth = len(self._path)
        above = self._path.get(identity)
        if above is not None:
            self._reach = min(self._reach, above)
            return b"^%d;" % (depth - above)
        if identity in self._in_cycle:
            _, index, reach = self._in_cycle[identity]
            self._reach = min(self._reach, reach)
            return b"&%d;" % (len(self._in_cycle) - index)
        return self._new(obj, depth)

    def _new(self, obj: object, depth: int) -> bytes:
        """The encoding of a compound object that was not met before."""
        n_in_cycle, reach_outside = len(self._in_cycle), self._reach
        self._path[id(obj)] = self._reach = depth
        try:
            digest = blake2b(self._compound(obj), digest_size=_DIGEST_BYTES).digest()
        finally:
            del self._path[id(obj)]
        if self._reach < depth:
            self._in_cycle[id(obj)] = (obj, len(self._in_cycle), self._reach)
            data = b"@" + digest
        else:
            while len(self._in_cycle) > n_in_cycle:
                self._in_cycle.popitem()
            data = b"#" + digest
            self._done[id(obj)] = (obj, data)
        self._reach = min(self._reach, reach_outside)
        return data

    def unknown(self, obj: object) -> bytes:
        """For an object that has nothing to tell it by, and is itself alone."""
        return _unique()

    def by_cloudpickle(self, obj: object) -> bytes:
        """For an object that pickle cannot take apart."""
        return _by_cloudpickle(obj)

    def all(self, objects: Iterable[object]) -> bytes:
        """The encodings of several objects, in order."""
        encoded = [self.one(obj) for obj in objects]
        return b"(%d:%b" % (len(encoded), b"".join(encoded))

    def unordered(self, objects: Iterable[object]) -> bytes:
        """The encodings of several objects whose order means nothing."""
        encoded = sorted(self.one(obj) for obj in objects)
        return b"{%d:%b" % (len(encoded), b"".join(encoded))

    def mapping(self, mapping: Iterable[tuple[object, object]]) -> bytes:
        encoded = sorted(self.one(key) + self.one(value) for key, value in mapping)
        return b":%d:%b" % (len(encoded), b"".join(encoded))

    def _compound(self, obj: Any) -> bytes:
        encode = _EXACT.get(type(obj))
        if encode is not None:
            return encode(self, obj)
        cls = type(obj)
        if getattr(cls, "__dask_tokenize__", None) is not None:
            return b"dask" + self.one(cls) + self.one(obj.__dask_tokenize__())
        if isinstance(obj, type):
            return _class(self, obj)
        if cls.__name__ == "Delayed" and cls.__module__.partition(".")[0] in ("manyhands", "builtins"):
            return b"delayed" + _str(obj.key)
        if isinstance(obj, ModuleType):
            return _module(self, obj)
        return _instance(self, obj)


# Containers and arrays


def _list(encoder: _Encoder, obj: list[object]) -> bytes:
    return b"list" + encoder.all(obj)


def _tuple(encoder: _Encoder, obj: tuple[object, ...]) -> bytes:
    return b"tuple" + encoder.all(obj)


def _set(encoder: _Encoder, obj: set[object]) -> bytes:
    return type(obj).__name__.encode() + encoder.unordered(obj)


def _dict(encoder: _Encoder, obj: dict[object, object]) -> bytes:
    return b"dict" + encoder.mapping(obj.items())


def _bytes_like(encoder: _Encoder, obj: Any) -> bytes:
    view = memoryview(obj)
    head = b"buffer" + _str(type(obj).__name__) + _str(view.format) + encoder.all(view.shape or ())
    return head + _digest(view)


def _pickle_buffer(encoder: _Encoder, obj: Any) -> bytes:
    return b"buffer" + _digest(obj)


def _digest(buffer: Any) -> bytes:
    """The digest of a buffer's bytes, without a copy of them where they lie in one piece."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return blake2b(view, digest_size=_DIGEST_BYTES).digest()


def _array(encoder: _Encoder, array: Any) -> bytes:
    """A NumPy array, by its type, shape, order and elements.

    A strided view equals its contiguous copy, which is what pickling makes of it; Fortran order differs from C order,
    because sums over the two may differ in their last bits.
    """
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    head = b"array" + _dtype(array.dtype) + encoder.all(array.shape) + (b"F" if fortran else b"C")
    if array.dtype.hasobject:
        return head + encoder.all(array.ravel(order="C").tolist())
    numpy = sys.modules["numpy"]
    contiguous = array.T if fortran else numpy.ascontiguousarray(array)
    # Viewed as bytes: the buffer protocol knows neither dates nor every structured type.
    return head + _digest(contiguous.reshape(-1).view(numpy.uint8)) if array.nbytes else head


@lru_cache(maxsize=1024)
def _dtype(dtype: Any) -> bytes:
    return _Encoder().one(dtype)


# Functions, classes and modules


def _is_importable(module_name: object, qualname: str, obj: object) -> bool:
    """Whether another process finds this very object under its name."""
    if not isinstance(module_name, str) or module_name == "__main__" or "<locals>" in qualname:
        return False
    found: object = sys.modules.get(module_name)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found is obj


def _function(encoder: _Encoder, function: FunctionType) -> bytes:
    closure = function.__closure__ or ()
    parts: list[object] = [function.__code__, function.__defaults__, function.__kwdefaults__, *closure]
    if _is_importable(function.__module__, function.__qualname__, function):
        parts += [function.__module__, function.__qualname__]
    else:
        from manyhands._culprit import globals_used

        parts.append(globals_used(function))
    return b"function" + encoder.all(parts)


def _cell(encoder: _Encoder, cell: CellType) -> bytes:
    try:
        return b"cell" + encoder.one(cell.cell_contents)
    except ValueError:  # not assigned yet
        return b"empty cell"


def _code(encoder: _Encoder, code: CodeType) -> bytes:
    return _code_by_itself(code)


@lru_cache(maxsize=4096)
def _code_by_itself(code: CodeType) -> bytes:
    """A code object by what it does: not by the file and the lines it stands in."""
    return b"code" + _Encoder().all(
        [
            code.co_code,
            code.co_consts,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_cellvars,
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags,
            getattr(code, "co_exceptiontable", b""),
        ]
    )


def _builtin(encoder: _Encoder, function: BuiltinFunctionType) -> bytes:
    return b"builtin" + encoder.all([function.__self__, function.__module__, function.__qualname__])


def _method(encoder: _Encoder, method: MethodType) -> bytes:
    return b"method" + encoder.all([method.__func__, method.__self__])


def _module(encoder: _Encoder, module: ModuleType) -> bytes:
    if sys.modules.get(module.__name__) is module:
        return b"module" + _str(module.__name__)
    return b"module" + _str(module.__name__) + _namespace(encoder, module)


# What a class statement adds by itself: it differs between runs and interpreters, or follows from the rest.
_NOT_CONTENT = frozenset(
    [
        "__builtins__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__loader__",
        "__module__",
        "__qualname__",
        "__slotnames__",
        "__spec__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    ]
)


def _class(encoder: _Encoder, cls: type) -> bytes:
    head = b"class" + encoder.all([cls.__module__, cls.__qualname__])
    if cls.__module__ == "builtins" or _is_importable(cls.__module__, cls.__qualname__, cls):
        return head
    return head + encoder.all([type(cls), cls.__bases__]) + _namespace(encoder, cls)


def _namespace(encoder: _Encoder, owner: type | ModuleType) -> bytes:
    return encoder.mapping([item for item in list(vars(owner).items()) if item[0] not in _NOT_CONTENT])


def _descriptor(encoder: _Encoder, descriptor: Any) -> bytes:
    return b"descriptor" + encoder.all([type(descriptor).__name__, descriptor.__name__])


# Everything else


def _enum(encoder: _Encoder, member: Any) -> bytes:
    return b"enum" + encoder.all([type(member), member.name, member._value_])


def _instance(encoder: _Encoder, obj: Any) -> bytes:
    """An object by its class and what pickle would store of it."""
    cls = type(obj)
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(obj, enum.Enum):
        return _enum(encoder, obj)
    if cls.__module__ == "numpy" and cls.__qualname__ == "ndarray":
        return _array(encoder, obj)
    if cls is object:
        return encoder.unknown(obj)
    copyreg = sys.modules["copyreg"]
    reducer = copyreg.dispatch_table.get(cls)
    try:
        reduced = reducer(obj) if reducer is not None else obj.__reduce_ex__(5)
        if not isinstance(reduced, str):
            reduced = _Reduced(*reduced)
    except RecursionError:
        raise
    except Exception:  # an object that pickle cannot take apart: cloudpickle may know its type
        return encoder.by_cloudpickle(obj)
    if isinstance(reduced, str):
        # A global name. A wrapper has the name of what it wraps, which may be another object by now.
        name = [getattr(obj, "__module__", None), reduced, getattr(obj, "__wrapped__", None)]
        return b"global" + encoder.one(cls) + encoder.all(name)
    return b"object" + encoder.one(cls) + _reduced(encoder, obj, reduced)


class _Reduced:
    """The parts of a reduction, as `object.__reduce__` documents them."""

    def __init__(
        self,
        function: object,
        arguments: object,
        state: object = None,
        items: Iterable[object] | None = None,
        pairs: Iterable[tuple[object, object]] | None = None,
        setter: object = None,
    ) -> None:
        self.makers = [function, arguments, setter]
        self.state = state
        # They come as iterators, which may fail as the reduction itself may.
        self.items = list(items or ())
        self.pairs = list(pairs or ())


def _reduced(encoder: _Encoder, obj: object, reduced: _Reduced) -> bytes:
    if isinstance(obj, (set, frozenset)):  # its reduction lists the elements in the order of their hashes
        return encoder.unordered(obj) + encoder.one(reduced.state)
    parts = encoder.all([*reduced.makers, reduced.state, reduced.items])
    ordered = type(obj).__module__ == "collections" and type(obj).__qualname__ == "OrderedDict"
    return parts + (encoder.all(reduced.pairs) if ordered else encoder.mapping(reduced.pairs))


def _by_cloudpickle(obj: object) -> bytes:
    import cloudpickle

    try:
        return _sized(b"pickle", cloudpickle.dumps(obj, 5))
    except RecursionError:
        raise
    except Exception:  # nothing can tell what is in it
        return _unique()


def _pickle_buffer_type() -> type:
    from pickle import PickleBuffer

    return PickleBuffer


_EXACT: dict[type, Callable[[_Encoder, Any], bytes]] = {
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    dict: _dict,
    bytearray: _bytes_like,
    memoryview: _bytes_like,
    CodeType: _code,
    CellType: _cell,
    FunctionType: _function,
    BuiltinFunctionType: _builtin,
    MethodType: _method,
    _pickle_buffer_type(): _pickle_buffer,
    MappingProxyType: lambda encoder, proxy: b"proxy" + encoder.mapping(proxy.items()),
    property: lambda encoder, obj: b"property" + encoder.all([obj.fget, obj.fset, obj.fdel]),
    staticmethod: lambda encoder, obj: b"staticmethod" + encoder.one(obj.__func__),
    classmethod: lambda encoder, obj: b"classmethod" + encoder.one(obj.__func__),
    MemberDescriptorType: _descriptor,
    GetSetDescriptorType: _descriptor,
}
