"""A kept pickle is used only while pickling anew would give the same."""

from __future__ import annotations

import math
import sys
import types

import pytest

from manyhands import _function_cache, _pickling


def make(source: str, **globals_: object) -> types.FunctionType:
    """A function of `__main__`, defined by `source` under the name f."""
    namespace = {"__name__": "__main__", **globals_}
    exec(source, namespace)
    function = namespace["f"]
    assert isinstance(function, types.FunctionType)
    return function


def is_kept(function: types.FunctionType) -> bool:
    _pickling.dumps_function(function)
    return _function_cache.recall(function) is not None


def test_a_function_of_nothing_but_code_is_kept() -> None:
    f = make("def f(x, n=2, *, s='a'): return math.sqrt(len([x * n for _ in s]))", math=math)
    first = _pickling.dumps_function(f)
    assert _pickling.dumps_function(f) is first
    assert _pickling.loads(first)(2) == 1.0


@pytest.mark.parametrize(
    ("source", "globals_"),
    [
        ("def f(): return data", {"data": [1]}),
        ("def f(): return (lambda: data)()", {"data": [1]}),
        ("def f(): return number", {"number": 1}),
        ("def f(d=[]): return d", {}),
        ("def f(*, d=()): return d", {}),
        ("def outer():\n    x = 1\n    def f(): return x\n    return f\nf = outer()", {}),
        ("def f(): return helper()", {"helper": lambda: 1}),
        ("def f(): pass\nf.attribute = 1", {}),
    ],
)
def test_functions_that_hold_data_are_not(source: str, globals_: dict[str, object]) -> None:
    assert not is_kept(make(source, **globals_))


def test_every_change_is_seen() -> None:
    def fresh() -> types.FunctionType:
        f = make("def f(x=1): return math.floor(x)", math=math)
        assert is_kept(f)
        return f

    f = fresh()
    f.__code__ = make("def f(x=1): return -x").__code__
    assert _pickling.loads(_pickling.dumps_function(f))(3) == -3
    f = fresh()
    f.__defaults__ = (2.5,)
    assert _pickling.loads(_pickling.dumps_function(f))() == 2
    f = fresh()
    f.__globals__["math"] = types.SimpleNamespace(floor=lambda x: "other")
    assert _pickling.loads(_pickling.dumps_function(f))() == "other"
    f = fresh()
    f.attribute = 7  # type: ignore[attr-defined]
    assert _pickling.loads(_pickling.dumps_function(f)).attribute == 7
    f = make("def f(): return later()")
    assert is_kept(f)
    f.__globals__["later"] = lambda: "now"
    assert _pickling.loads(_pickling.dumps_function(f))() == "now"


def test_a_name_that_leads_elsewhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from manyhands import _raising

    function = _raising.cancelled
    by_name = _pickling.dumps_function(function)
    assert is_kept(function)  # type: ignore[arg-type]
    monkeypatch.setattr(_raising, "cancelled", None)
    assert _pickling.dumps_function(function) != by_name
    assert "manyhands._raising" in sys.modules


def test_another_function_at_the_same_address_is_another() -> None:
    for i in range(100):
        f = make(f"def f(): return {i}")
        assert _pickling.loads(_pickling.dumps_function(f))() == i
        del f
