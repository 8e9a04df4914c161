"""Lazy calls: functions and data wrapped so that using them writes a task down instead of running it."""

from __future__ import annotations

from manyhands._native import Delayed, _delayed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, overload
else:

    def overload(function):
        """Do without `typing`, whose import costs more than that of this package."""
        return function


__all__ = ["Delayed", "delayed"]


class _NotGiven:
    """The default of an argument for which None is a value like any other."""

    def __repr__(self) -> str:
        return "..."


_NOT_GIVEN: Any = _NotGiven()


@overload
def delayed(  # noqa: D103
    obj: Any,
    name: Any = None,
    pure: bool | None = None,
    nout: int | None = None,
    traverse: bool = True,
    resources: Mapping[str, int] | None = None,
) -> Delayed: ...


@overload
def delayed(  # noqa: D103, F811
    *,
    name: Any = None,
    pure: bool | None = None,
    nout: int | None = None,
    traverse: bool = True,
    resources: Mapping[str, int] | None = None,
) -> Callable[[Any], Delayed]: ...


def delayed(  # noqa: F811
    obj: Any = _NOT_GIVEN,
    name: Any = None,
    pure: bool | None = None,
    nout: int | None = None,
    traverse: bool = True,
    resources: Mapping[str, int] | None = None,
) -> Delayed | Callable[[Any], Delayed]:
    """Wrap a function or an object so that using it makes tasks, which run later and in parallel.

    Calling a delayed function returns a `Delayed` at once. Its arguments may be `Delayed` themselves, also inside
    lists, tuples, sets, dicts, slices and dataclasses: the task then waits for theirs. So may operands, indices and
    attributes: ``delayed(data)["age"].mean() + 1`` is three tasks. `compute` runs what was written down.

    Parameters
    ----------
    obj : object
        The function or the object. Without it, the result is a decorator that takes the other arguments from here.
    name : str, optional
        The key of the wrapped object; one is made if it is not given. Calls have keys of their own: give
        ``dask_key_name="..."`` with the call to choose one. Two different computations cannot have the same key.
    pure : bool, optional
        Whether equal arguments mean equal results. Equal calls of a pure function are one task. By default functions
        are not taken for pure: each call runs, for its result may be random. A call can say ``pure=True`` too.
    nout : int, optional
        How many results a call returns, if it returns a sequence of them; calls can then be unpacked: ``a, b = f(x)``.
    traverse : bool, default True
        Whether to look for `Delayed` inside `obj`, if it is a collection.
    resources : mapping of str to int, optional
        What each call of `obj`, or of a method of it, needs while it runs, such as ``{"gpu": 1}``: no more of them run
        at once than there is enough for, as the setting `resources` says, while other tasks of the graph run beside
        them. What is made of the result needs nothing. By default what a block of `manyhands.resources` says around the
        call. A task that asks for more than there is is an error when the graph is computed, before anything runs.

    Returns
    -------
    Delayed
        The wrapped object, or `obj` itself if it was a `Delayed` already.

    Raises
    ------
    ValueError
        If `nout` is not a non-negative integer; for `resources` of what is a `Delayed` already.
    ConfigError
        If `resources` are no whole numbers by name.
    TypeError
        If `name` is not a str, a number or a tuple of these.

    Notes
    -----
    A collection that holds a `Delayed` is copied when it becomes an argument: changing it afterwards changes nothing.
    Methods whose name begins with an underscore are not available on a `Delayed`.

    Examples
    --------
    As a decorator:

    >>> import manyhands as mh
    >>> @mh.delayed
    ... def add(a, b):
    ...     return a + b
    >>> total = add(1, add(2, 3))
    >>> len(total.graph)
    2

    Around a function of somebody else, and around data:

    >>> ordered = mh.delayed(sorted)([3, 1, 2])
    >>> first = ordered[0]
    >>> words = mh.delayed(["light", "work"])
    >>> loud = mh.delayed(" ".join)(words).upper()

    With several results:

    >>> quotient, remainder = mh.delayed(divmod, nout=2)(7, 2)

    Some tasks of a graph need something, and no more than two of these run at once:

    >>> solve = mh.delayed(pow, resources={"licence": 1})
    >>> total = mh.delayed(sum)([solve(i, 2) for i in range(4)])
    >>> with mh.config.set(resources={"licence": 2}):
    ...     total.compute()
    14

    Pure calls with equal arguments are one task, others are not:

    >>> square = mh.delayed(lambda x: x * x, pure=True)
    >>> square(3).key == square(3).key
    True
    >>> add(1, 2).key == add(1, 2).key
    False
    """
    if obj is _NOT_GIVEN:

        def decorate(obj: Any) -> Delayed:
            return delayed(obj, name, pure, nout, traverse, resources)

        return decorate
    if resources is None:
        return _delayed(obj, name, pure, nout, traverse)
    from manyhands._resources import units_by_name

    if isinstance(obj, Delayed):
        raise ValueError(
            f"resources={resources!r} is not accepted for {obj!r}, which is a Delayed already: say it where what it "
            "calls was wrapped, or write the call down in a block of manyhands.resources"
        )
    return _delayed(obj, name, pure, nout, traverse, units_by_name(resources, "resources"))
