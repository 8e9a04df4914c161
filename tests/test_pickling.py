"""What crosses a process border: the choice between reference and value, and the errors for what cannot cross."""

import functools
import os
import subprocess
import sys
import textwrap
import threading
import types

import pytest
from scripts import check, run

from manyhands import _pickling
from manyhands.errors import PicklingError

LOCK = threading.Lock()


class Holder:
    """Holds whatever it is given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("lock", "name")

    def __init__(self):
        self.name = "n"
        self.lock = threading.Lock()


class BadReduce:
    def __reduce__(self):
        raise ValueError("no reduction today")


class BadState:
    def __getstate__(self):
        raise KeyError("state")

    def __reduce__(self):
        return (BadState, (), self.__getstate__())


class JunkReduce:
    def __reduce__(self):
        return 7


class Endless:
    def __reduce__(self):
        return (Endless, (Endless(),))


class DropsItsLock:
    def __init__(self):
        self.lock = threading.Lock()
        self.data = [1, (i for i in ())]

    def __getstate__(self):
        return {"data": self.data}


def plain(x):
    return x + 1


def in_other_process(setup, check, cwd):
    """Run `setup` in one process, which prints the hex of a pickle, and `check` in another, which loads it as `got`."""
    writer = "import sys; from manyhands import _pickling\n" + textwrap.dedent(setup)
    data = subprocess.run([sys.executable, "-c", writer], cwd=cwd, capture_output=True, text=True, check=True).stdout
    reader = f"import pickle\ngot = pickle.loads(bytes.fromhex({data.strip()!r}))\n" + textwrap.dedent(check)
    run = subprocess.run([sys.executable, "-c", reader], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# What goes by reference, what by value


def test_an_importable_function_goes_by_reference():
    data = _pickling.dumps_function(plain)
    assert len(data) < 100
    assert _pickling.loads(data) is plain


@pytest.mark.parametrize(
    "function",
    [len, str.upper, functools.partial(plain, 1), [].append, int, Holder, "a".join],
    ids=["builtin", "method descriptor", "partial", "bound builtin", "type", "class", "bound str"],
)
def test_other_callables_go_without_cloudpickle(function, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # importing it is now an error
    assert callable(_pickling.loads(_pickling.dumps_function(function)))


def test_lambdas_closures_and_nested_functions_go_by_value():
    offset = 10

    def nested(x):
        return x + offset

    for function in (nested, lambda x: x + offset, functools.partial(lambda y, x: x + y, 10)):
        assert _pickling.loads(_pickling.dumps_function(function))(1) == 11


def test_a_function_of_main_runs_in_another_process(tmp_path):
    in_other_process(
        """
        scale = 3
        class Model:
            def fit(self, x):
                return helper(x) * scale
        def helper(x):
            return x + 1
        def run(x):
            return Model().fit(x)
        sys.stdout.write(_pickling.dumps_function(run).hex())
        """,
        "assert got(1) == 6",
        tmp_path,
    )


def test_an_instance_of_a_class_of_main_loads_in_another_process(tmp_path):
    in_other_process(
        """
        class Point:
            def __init__(self, x): self.x = x
        sys.stdout.write(_pickling.dumps([Point(4)]).hex())
        """,
        "assert got[0].x == 4 and type(got[0]).__name__ == 'Point'",
        tmp_path,
    )


def test_a_text_that_names_main_is_no_reference(monkeypatch):
    import fractions

    value = ("__main__", fractions.Fraction(1, 3), [len, os.path.join])
    monkeypatch.setattr(_pickling, "_dump_by_value", None)
    assert _pickling.loads(_pickling.dumps(value)) == value


def test_a_function_replaced_by_its_decorator_goes_by_value(tmp_path):
    (tmp_path / "study.py").write_text(
        textwrap.dedent(
            """
            import functools

            class Lazy:
                def __init__(self, function):
                    self.__wrapped__ = function
                def __call__(self, *args):
                    raise AssertionError("the decorator's object was called, not the function")

            @Lazy
            def fit(x):
                return -x

            def loud(function):
                @functools.wraps(function)
                def wrapper(x):
                    return ("loud", function(x))
                return wrapper

            @loud
            def shout(x):
                return x
            """
        )
    )
    in_other_process(
        "import study; sys.stdout.write(_pickling.dumps_function(study.fit.__wrapped__).hex())",
        "assert got(2) == -2",
        tmp_path,
    )
    in_other_process(
        "import study; sys.stdout.write(_pickling.dumps_function(study.shout).hex())",
        "import study\nassert got is study.shout",
        tmp_path,
    )
    in_other_process(
        "import study; sys.stdout.write(_pickling.dumps_function(study.shout.__wrapped__).hex())",
        "assert got(2) == 2",
        tmp_path,
    )


MADE_HERE = """
factor = 5
class Box:
    def __init__(self, x): self.x = x
    def grown(self): return self.x * factor
def fit(x): return Box(x).grown()
"""


@pytest.mark.parametrize(
    "dump, check",
    [
        ("dumps_function(made.fit)", "assert got(2) == 10"),
        ("dumps(made.Box(3))", "assert got.grown() == 15"),
        ("dumps({'k': [made.Box]})", "assert got['k'][0](1).grown() == 5"),
    ],
    ids=["function", "instance", "class"],
)
def test_what_belongs_to_a_module_made_here_goes_by_value(dump, check, tmp_path):
    setup = f"""
import types
made = sys.modules["made_here"] = types.ModuleType("made_here")
exec({MADE_HERE!r}, made.__dict__)
sys.stdout.write(_pickling.{dump}.hex())
"""
    in_other_process(setup, check, tmp_path)


def test_a_module_loaded_from_a_file_off_the_path_goes_by_value(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "plugin_off_path.py").write_text("def fit(x):\n    return x * 7\n")
    in_other_process(
        """
        import importlib.util
        spec = importlib.util.spec_from_file_location("plugin_off_path", "plugins/plugin_off_path.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        sys.stdout.write(_pickling.dumps_function(module.fit).hex())
        """,
        "assert got(2) == 14",
        tmp_path,
    )


def test_the_by_value_registry_is_left_as_it_was(monkeypatch):
    import cloudpickle

    made = types.ModuleType("made_for_the_registry")
    exec("def fit(x):\n    return x", made.__dict__)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    assert b"made_for_the_registry" in _pickling.dumps_function(made.fit)
    assert made.__name__ not in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.register_pickle_by_value(made)
    try:
        _pickling.dumps_function(made.fit)
        assert made.__name__ in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(made)


def test_a_fork_amid_pickling_in_another_thread_leaves_the_child_free(tmp_path):
    """The thread is not there in the child: neither its lock nor its registration may be."""
    source = """
        import os, signal, sys, threading, types
        import cloudpickle
        from manyhands import _pickling

        made = sys.modules["made_here"] = types.ModuleType("made_here")
        exec("class Slow:\\n    def __reduce__(self):\\n        return reduce()", made.__dict__)
        is_inside, is_over = threading.Event(), threading.Event()

        def reduce():
            if not cloudpickle.list_registry_pickle_by_value():
                return int, ()  # to plain pickle, which is tried first
            with _pickling._lock:
                is_inside.set()
                is_over.wait(60)
            return int, ()

        made.reduce = reduce
        thread = threading.Thread(target=_pickling.dumps, args=([made.Slow(), lambda: 0],))
        thread.start()
        is_inside.wait(60)
        assert cloudpickle.list_registry_pickle_by_value() == {"made_here"}
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            assert not cloudpickle.list_registry_pickle_by_value()
            _pickling.dumps(lambda: 1)
            assert not cloudpickle.list_registry_pickle_by_value()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        is_over.set()
        thread.join()
        assert not cloudpickle.list_registry_pickle_by_value()
        print("right")
    """
    check(run(tmp_path, source, env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"}), "right\n")


def test_a_module_registered_by_the_user_goes_by_value():
    import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        copy = _pickling.loads(_pickling.dumps_function(plain))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert copy is not plain
    assert copy(1) == 2


def test_values_keep_their_type_and_identity():
    shared = [1, 2]
    value = {"a": shared, "b": shared, "c": (True, 1, 1.0, -0.0, b"\0", "\0", 2**100)}
    copy = _pickling.loads(_pickling.dumps(value))
    assert copy == value
    assert copy["a"] is copy["b"]
    assert [type(item) for item in copy["c"]] == [type(item) for item in value["c"]]


# What cannot be pickled, and what the error says


def closure_over(value):
    def inner():
        return value

    return inner


def with_default(value):
    return lambda x, lock=value: x


def uses_the_global_lock():
    with LOCK:
        return 1


def stored_by_value(function):
    """The same function, as it would be if its module could not be imported."""
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__module__ = "__main__"
    return copy


LOCAL_CLASS = type("Local", (), {"__module__": "__main__", "lock": LOCK})

CASES = {
    "itself": (lambda: threading.Lock(), "", "cannot pickle '_thread.lock' object"),
    "attribute": (lambda: Holder(name="x", lock=LOCK), ".lock", "cannot pickle '_thread.lock' object"),
    "deep": (lambda: Holder(cache={"a": 1, "lock": LOCK}), ".cache['lock']", "cannot pickle '_thread.lock' object"),
    "slot": (lambda: Slotted(), ".lock", "cannot pickle '_thread.lock' object"),
    "generator": (lambda: [1, [2, (i for i in ())]], "[1][1]", "cannot pickle 'generator' object"),
    "tuple in set": (lambda: {("a", LOCK)}, "element[1]", "cannot pickle '_thread.lock' object"),
    "dict key": (lambda: {LOCK: 1}, "key", "cannot pickle '_thread.lock' object"),
    "closure": (lambda: closure_over({"h": LOCK}), "closure variable 'value'['h']", "'_thread.lock'"),
    "default": (lambda: with_default(LOCK), "default of parameter 'lock'", "'_thread.lock'"),
    "global": (lambda: stored_by_value(uses_the_global_lock), "global 'LOCK'", "'_thread.lock'"),
    "partial": (lambda: functools.partial(plain, 1, k=LOCK), ".keywords['k']", "'_thread.lock'"),
    "bound method": (lambda: Holder(lock=LOCK).__init__, ".__self__.lock", "'_thread.lock'"),
    "class body": (lambda: LOCAL_CLASS(), "its class.lock", "'_thread.lock'"),
    "reduce raises": (lambda: [BadReduce()], "[0]", "pickling it raised ValueError: no reduction today"),
    "getstate raises": (lambda: {"m": BadState()}, "['m']", "pickling it raised KeyError: 'state'"),
    "junk reduce": (lambda: (1, JunkReduce()), "[1]", "__reduce__ must return a string or tuple"),
    "left out by getstate": (lambda: DropsItsLock(), ".data[1]", "cannot pickle 'generator' object"),
    "dict subclass": (lambda: __import__("collections").OrderedDict(a=LOCK), "['a']", "'_thread.lock'"),
    "array": (lambda: __import__("numpy").array([[1, LOCK]], dtype=object), "[0][1]", "'_thread.lock'"),
    "endless": (lambda: Endless(), "", "nested too deeply"),
}


@pytest.mark.parametrize("make, path, reason", CASES.values(), ids=CASES.keys())
def test_the_culprit_is_named(make, path, reason):
    with pytest.raises(PicklingError) as caught:
        _pickling.dumps(make())
    error = caught.value
    assert error.path == path
    assert reason in error.reason
    assert f"object{' -> ' if path else ''}{path}: " in str(error)
    assert 'scheduler="threads"' in str(error)
    assert error.__cause__ is not None
    assert not isinstance(error.__cause__, PicklingError)


def test_an_open_file_in_a_closure_is_named(tmp_path):
    with open(tmp_path / "log.txt", "w") as handle, pytest.raises(PicklingError) as caught:
        _pickling.dumps_function(closure_over(handle))
    assert caught.value.path == "closure variable 'value'"
    assert caught.value.what == "function 'closure_over.<locals>.inner'"
    assert "TextIOWrapper" in caught.value.reason or "files" in caught.value.reason


def test_the_error_names_the_argument_and_its_type():
    model = Holder(cache={"lock": LOCK})
    error = _pickling.fail("argument 'model'", model, TypeError("cannot pickle '_thread.lock' object"))
    first, second, *_ = str(error).splitlines()
    assert first.startswith(f"argument 'model' (of type {__name__}.Holder) cannot be pickled")
    assert second == "  argument 'model' -> .cache['lock']: cannot pickle '_thread.lock' object"


def test_a_second_report_reuses_the_findings_of_the_first():
    with pytest.raises(PicklingError) as caught:
        _pickling.dumps({"lock": LOCK})
    again = _pickling.fail("argument 2", object(), caught.value)
    assert again.path == "['lock']"
    assert "argument 2 -> ['lock']: cannot pickle" in str(again)
    assert again.__cause__ is caught.value.__cause__


def test_cycles_do_not_hide_the_culprit():
    root, child = Holder(), Holder()
    child.parent = root
    root.children = [child]
    root.zone = {"lock": LOCK}
    with pytest.raises(PicklingError) as caught:
        _pickling.dumps(root)
    assert caught.value.path == ".zone['lock']"


def test_the_search_is_short_in_long_containers():
    values = [[i] for i in range(200_000)]
    values[123_456].append(LOCK)
    with pytest.raises(PicklingError) as caught:
        _pickling.dumps(values)
    assert caught.value.path == "[123456][1]"


def test_nesting_too_deep_for_pickle_is_said():
    nested = []
    for _ in range(200_000):
        nested = [nested]
    with pytest.raises(PicklingError, match="nested too deeply") as caught:
        _pickling.dumps(nested)
    assert caught.value.path == ""
    while nested:  # taken apart by hand: older interpreters free it recursively
        nested = nested[0]


class Hostile:
    """Everything that an error report might ask of it fails."""

    def __reduce_ex__(self, protocol):
        raise RuntimeError("mine")

    def __repr__(self):
        raise RuntimeError("mine")

    def __str__(self):
        raise RuntimeError("mine")

    def __getattr__(self, name):
        raise RuntimeError("mine")

    def __eq__(self, other):
        raise RuntimeError("mine")

    def __hash__(self):
        return 1


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "make",
    [Hostile, lambda: [Hostile()], lambda: {Hostile(): LOCK}, lambda: Holder(a=Hostile())],
    ids=["itself", "in a list", "as a key", "as an attribute"],
)
def test_the_report_itself_never_fails(make):
    value = make()
    error = _pickling.fail("argument 1", value, HostileError())
    assert "argument 1" in str(error)
    with pytest.raises(PicklingError):
        _pickling.dumps(value)


def test_an_error_without_a_culprit_keeps_the_picklers_words():
    error = _pickling.fail("result", 5, ValueError("the disc is full"))
    assert error.path == ""
    assert "ValueError: the disc is full" in error.reason


def test_what_a_closure_holds_of_a_module_that_only_this_process_can_import(tmp_path):
    """A file loaded by its path, as some test runners and notebooks do, is no module that a worker would find."""
    import importlib.util

    path = tmp_path / "loaded_by_path.py"
    path.write_text("class Thing:\n    def __init__(self, x):\n        self.x = x\n")
    spec = importlib.util.spec_from_file_location("loaded_by_path", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["loaded_by_path"] = module
    try:
        spec.loader.exec_module(module)
        thing = module.Thing(3)
        assert "loaded_by_path" not in _pickling._local
        for data in (_pickling.dumps_function(lambda: thing.x), _pickling.dumps(thing), _pickling.dumps([thing])):
            program = f"import pickle; print(type(pickle.loads({data!r})).__name__)"
            ran = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
            assert ran.stdout.strip() in ("Thing", "list", "function")
    finally:
        del sys.modules["loaded_by_path"]


def test_what_a_closure_holds_of_a_module_that_another_one_hides(tmp_path, monkeypatch):
    """Two folders on the path with a file of the same name: a worker finds the first, whichever is loaded here."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    (tmp_path / "first" / "hidden_helpers.py").write_text("")
    (tmp_path / "second" / "hidden_helpers.py").write_text("class Thing:\n    x = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "second"))
    import hidden_helpers

    try:
        thing = hidden_helpers.Thing()
        monkeypatch.syspath_prepend(str(tmp_path / "first"))
        for data in (_pickling.dumps_function(lambda: thing.x), _pickling.dumps([thing])):
            program = f"import pickle, sys; sys.path[:0] = {sys.path[:2]}; print(type(pickle.loads({data!r})).__name__)"
            ran = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
            assert ran.stdout.strip() in ("function", "list")
    finally:
        del sys.modules["hidden_helpers"]


@pytest.mark.parametrize("time_max_s", [0.0, 0.05, 0.3])
def test_an_endless_object_is_said_to_be_too_deep_however_slow_the_machine(time_max_s, monkeypatch):
    from manyhands import _culprit

    monkeypatch.setattr(_culprit, "SEARCH_TIME_MAX_S", time_max_s)
    with pytest.raises(PicklingError) as caught:
        _pickling.dumps(Endless())
    assert (caught.value.path, caught.value.reason) == ("", "it is nested too deeply")
