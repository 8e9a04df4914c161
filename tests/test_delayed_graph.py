"""Delayed objects and the graphs they make: everything that needs no executor."""

import copy
import dataclasses
import gc
import inspect
import math
import operator
import os
import pickle
import random
import re
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, namedtuple
from functools import partial

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands import _native
from manyhands.delayed import Delayed, delayed

N_LONG = 1_000_000
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TOKEN = r"[0-9a-f]{32}"


def inc(x):
    """Add one."""
    return x + 1


def add(a, b=0):
    return a + b


def collected(*args, **kwargs):
    return _native._probe_collect(*args, **kwargs)


def n_tasks(*args, **kwargs):
    return collected(*args, **kwargs)["n_tasks"]


@pytest.fixture(params=[False, True], ids=["here", "bytes"])
def evaluate(request):
    """Run tasks here, with their calls as they are and with their calls as a worker would get them."""

    def run(*args, **kwargs):
        return _native._probe_evaluate(*args, through_bytes=request.param, **kwargs)

    return run


def result(lazy):
    """The result of one Delayed, the same by both ways."""
    (here,) = _native._probe_evaluate(lazy)
    (there,) = _native._probe_evaluate(lazy, through_bytes=True)
    assert type(here) is type(there)
    return here


# Names and keys


class TestKeys:
    def test_impure_calls_have_the_name_and_a_uuid(self):
        key = delayed(inc)(1).key
        assert re.fullmatch(f"inc-{UUID}", key)
        assert repr(delayed(inc)(1)).startswith("Delayed('inc-")

    def test_repr_shows_the_key(self):
        lazy = delayed(inc)(1)
        assert repr(lazy) == f"Delayed({lazy.key!r})"

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda: delayed(lambda x: x)(1), "lambda"),
            (lambda: delayed(partial(inc, 1))(), "inc"),
            (lambda: delayed(OrderedDict)(a=1), "OrderedDict"),
            (lambda: delayed([1, 2]), "list"),
            (lambda: delayed(5), "int"),
            (lambda: delayed(inc), "inc"),
            (lambda: delayed(inc)(1).bit_length(), "bit_length"),
            (lambda: delayed(inc)(1)(2), "apply"),
        ],
    )
    def test_name_in_the_key(self, make, name):
        assert re.fullmatch(f"{name}-{UUID}", make().key)

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda x: x + 1, "add"),
            (lambda x: 1 + x, "add"),
            (lambda x: x & 1, "and"),
            (lambda x: -x, "neg"),
            (lambda x: x[0], "getitem"),
            (lambda x: x.real, "getattr"),
            (lambda x: x == 1, "eq"),
        ],
    )
    def test_operators_are_pure(self, make, name):
        lazy = delayed(inc)(1)
        assert re.fullmatch(f"{name}-{TOKEN}", make(lazy).key)
        assert make(lazy).key == make(lazy).key
        assert make(lazy).key != make(delayed(inc)(1)).key

    def test_operand_order_is_part_of_the_key(self):
        lazy = delayed(inc)(1)
        assert (lazy - 1).key != (1 - lazy).key

    def test_long_names_are_cut(self):
        def function():
            pass

        function.__name__ = "ä" * 200
        key = delayed(function)().key
        assert re.fullmatch("ä" * 50 + f"-{UUID}", key)

    def test_impure_keys_are_unique(self):
        lazy = [delayed(inc)(1) for _ in range(10_000)]
        assert len({one.key for one in lazy}) == len(lazy)

    def test_key_stays(self):
        lazy = delayed(inc)(1)
        assert lazy.key is lazy.key

    def test_keys_leave_the_random_state_alone(self):
        random.seed(1)
        state = random.getstate()
        np.random.seed(1)
        numpy_state = np.random.get_state()[1].tolist()
        delayed(inc)(1).key
        assert random.getstate() == state
        assert np.random.get_state()[1].tolist() == numpy_state

    def test_forked_child_has_keys_of_its_own(self):
        delayed(inc)(1).key
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, delayed(inc)(1).key.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        there = os.read(read, 1000).decode()
        os.close(read)
        os.close(write)
        assert re.fullmatch(f"inc-{UUID}", there)
        assert there != delayed(inc)(1).key

    def test_pure_key_is_a_token(self):
        pure = delayed(inc, pure=True)
        assert re.fullmatch(f"inc-{TOKEN}", pure(1).key)
        assert pure(1).key == pure(1).key == delayed(inc)(1, pure=True).key
        assert pure(1).key != pure(1.0).key != pure(True).key
        assert pure(1).key != delayed(add, pure=True)(1).key
        assert pure(1, pure=False).key != pure(1, pure=False).key

    def test_pure_key_depends_on_keys_inside(self):
        pure = delayed(add, pure=True)
        one, other = delayed(inc)(1), delayed(inc)(1)
        assert pure([one]).key == pure([one]).key
        assert pure([one]).key != pure([other]).key
        assert pure(a=one).key != pure(a=other).key

    def test_chosen_key(self):
        lazy = delayed(inc)(1, dask_key_name="foo")
        assert lazy.key == "foo"
        assert repr(lazy) == "Delayed('foo')"
        assert delayed(inc)(1, dask_key_name=("foo", 1)).key == ("foo", 1)
        assert result(lazy) == 2

    def test_name_is_the_key_of_the_leaf(self):
        assert delayed(5, name="x").key == "x"
        assert delayed([delayed(inc)(1)], name="x").key == "x"
        assert delayed(inc, name="x")(1).key != "x"

    @pytest.mark.parametrize("key", [[1], {}, b"key", object(), (1, [2])])
    def test_unfit_key(self, key):
        with pytest.raises(TypeError, match="dask_key_name must be a str, a number or a tuple"):
            delayed(inc)(1, dask_key_name=key)
        with pytest.raises(TypeError, match="name must be a str"):
            delayed(inc, name=key)

    def test_hash_is_that_of_the_key(self):
        lazy = delayed(inc)(1)
        assert hash(lazy) == hash(lazy.key)
        assert len({lazy, lazy, delayed(inc)(1)}) == 2

    def test_pure_chain_needs_no_stack(self):
        lazy = delayed(inc)(0)
        for _ in range(20_000):
            lazy = lazy + 1
        assert re.fullmatch(f"add-{TOKEN}", lazy.key)


# The face of a Delayed


class TestFace:
    def test_delayed_of_a_delayed_is_itself(self):
        lazy = delayed(inc)(1)
        assert delayed(lazy) is lazy

    def test_decorator_with_arguments(self):
        @delayed(pure=True)
        def square(x):
            return x * x

        assert square(3).key == square(3).key
        assert result(square(3)) == 9

    def test_leaf_looks_like_its_function(self):
        lazy = delayed(inc)
        assert lazy.__name__ == "inc"
        assert lazy.__doc__ == "Add one."
        assert lazy.__wrapped__ is inc
        assert inspect.unwrap(lazy) is inc
        assert str(inspect.signature(lazy)) == "(x)"
        assert callable(lazy)

    def test_class_has_a_docstring_of_its_own(self):
        assert "lazy value" in Delayed.__doc__

    def test_only_functions_are_wrapped(self):
        with pytest.raises(AttributeError, match="Attribute __name__ not found"):
            delayed(5).__name__
        with pytest.raises(AttributeError, match="Attribute __wrapped__ not found"):
            delayed(inc)(1).__wrapped__

    def test_immutable(self):
        lazy = delayed(inc)(1)
        for change in (
            lambda: setattr(lazy, "a", 1),
            lambda: delattr(lazy, "a"),
            lambda: operator.setitem(lazy, 0, 1),
            lambda: operator.delitem(lazy, 0),
            lambda: setattr(lazy, "key", "other"),
        ):
            with pytest.raises(TypeError, match="Delayed objects are immutable"):
                change()

    def test_no_truth(self):
        with pytest.raises(TypeError, match="Truth of Delayed objects is not supported"):
            bool(delayed(inc)(1))
        with pytest.raises(TypeError, match="Truth"):
            _ = delayed(inc)(1) == 2 or None

    def test_no_length_or_iteration(self):
        with pytest.raises(TypeError, match="Delayed objects of unspecified length are not iterable"):
            iter(delayed(inc)(1))
        with pytest.raises(TypeError, match="have no len"):
            len(delayed(inc)(1))

    @pytest.mark.parametrize("convert", [int, float, operator.index, round])
    def test_no_conversion(self, convert):
        with pytest.raises(TypeError):
            convert(delayed(inc)(1))

    def test_nout(self):
        pair = delayed(divmod, nout=2)(7, 2)
        quotient, remainder = pair
        assert len(pair) == 2
        assert _native._probe_evaluate(quotient, remainder) == (3, 1)
        assert list(delayed(divmod, nout=0)(7, 2)) == []

    @pytest.mark.parametrize("nout", [-1, 1.5, True, "two", 2**40])
    def test_unfit_nout(self, nout):
        with pytest.raises(ValueError, match="nout must be None or a non-negative integer, got"):
            delayed(divmod, nout=nout)

    @pytest.mark.parametrize("name", ["_private", "__enter__", "_repr_html_", "__array__", "__dask_graph__"])
    def test_no_underscore_attributes(self, name):
        with pytest.raises(AttributeError, match=f"Attribute {name} not found"):
            getattr(delayed(inc)(1), name)

    def test_on_methods(self):
        class Model:
            def __init__(self, k):
                self.k = k

            @delayed
            def predict(self, x):
                return self.k * x

        model = Model(3)
        assert result(model.predict(2)) == 6
        assert isinstance(Model.predict, Delayed)

    def test_binary_operators(self):
        x, y = 13, 3
        lazy_x, lazy_y = delayed(int)(x), delayed(int)(y)
        for name in "add sub mul truediv floordiv mod pow lshift rshift and_ or_ xor lt le eq ne gt ge".split():
            apply = getattr(operator, name)
            expected = apply(x, y)
            assert result(apply(lazy_x, y)) == expected, name
            assert result(apply(x, lazy_y)) == expected, name
            assert result(apply(lazy_x, lazy_y)) == expected, name

    def test_unary_operators(self):
        lazy = delayed(int)(-5)
        assert [result(-lazy), result(+lazy), result(abs(lazy)), result(~lazy)] == [5, -5, 5, 4]
        assert result(pow(delayed(int)(5), 2, 7)) == 4

    def test_matmul(self):
        a = np.arange(4.0).reshape(2, 2)
        assert result(delayed(np.array)(a) @ a).tolist() == (a @ a).tolist()

    def test_numpy_scalar_on_the_left(self):
        lazy = np.float64(2) + delayed(int)(1)
        assert isinstance(lazy, Delayed)
        assert result(lazy) == 3

    def test_indexing_attributes_and_methods(self):
        words = delayed("a b c d".split)()
        assert result(words[1]) == "b"
        start = delayed(int)(1)
        assert result(words[start : start + 2]) == ["b", "c"]
        assert result(words[::-1][start]) == "c"
        assert result(words.index("c", start)) == 2
        assert result(delayed(complex)(1, 2).imag) == 2
        assert result(delayed("{a}{}".format)(1, a=start)) == "11"
        assert result(delayed("x").join(words)) == "axbxcxd"

    def test_modules(self):
        assert result(delayed(np).sum([1, 2])) == 3
        assert result(delayed(math).pi) == math.pi
        assert result(delayed(np).random.default_rng(1)).random() == np.random.default_rng(1).random()
        with pytest.raises(AttributeError, match="no_such"):
            result(delayed(np).no_such(1))

    def test_methods_are_impure_unless_told(self):
        lazy = delayed(inc)(1)
        assert lazy.bit_length().key != lazy.bit_length().key
        assert lazy.bit_length(pure=True).key == lazy.bit_length(pure=True).key
        assert lazy.bit_length(dask_key_name="n").key == "n"

    def test_calls_of_results(self):
        curried = delayed(lambda a: lambda b: a - b)
        assert result(curried(5)(3)) == 2
        assert result(delayed(partial)(add, 1)(b=delayed(inc)(1))) == 3

    def test_weak_references(self):
        lazy = delayed(inc)(1)
        reference = weakref.ref(lazy)
        assert reference() is lazy
        del lazy
        assert reference() is None

    def test_graph(self):
        one = delayed(inc)(1, dask_key_name="one")
        two = delayed(add)(one, b=[one, 5], dask_key_name="two")
        graph = two.graph
        assert list(graph) == ["one", "two"]
        assert len(graph) == 2
        assert dict(graph) == {"one": "inc(1)", "two": "add(<one>, b=[<one>, 5])"}
        assert graph.dependencies == {"one": set(), "two": {"one"}}
        assert graph.dependents == {"one": {"two"}, "two": set()}
        assert "one" in graph
        assert "three" not in graph
        assert repr(graph) == "Graph of 2 tasks"
        assert dict(two.dask) == dict(graph)
        with pytest.raises(TypeError):
            graph["three"] = 1

    def test_mark_of_a_key(self):
        lazy = delayed(inc)(1)
        text = list(delayed(inc)(lazy).graph.values())[-1]
        assert text == f"inc(<inc-{lazy.key[4:12]}…>)"


# Copies and pickles


class TestCopies:
    def test_copies_are_the_same(self):
        lazy = delayed(inc)(1)
        assert copy.copy(lazy) is lazy
        assert copy.deepcopy([lazy])[0] is lazy

    @pytest.mark.parametrize(
        "lazy",
        [
            delayed(inc),
            delayed(5, name="five"),
            delayed(divmod, nout=2)(7, 2),
            delayed(inc)(1).real,
            delayed(inc)(1).bit_length(),
            delayed(add)([delayed(inc)(1)], b=[3])[0],
            delayed({"a": delayed(inc)(1)}),
            delayed(add)(1, 2, pure=True),
            delayed(add)(1, 2, dask_key_name="three"),
        ],
        ids=lambda lazy: type(lazy).__name__,
    )
    def test_pickle_keeps_key_and_meaning(self, lazy):
        for dumps in (pickle.dumps, cloudpickle.dumps):
            back = pickle.loads(dumps(lazy))
            assert type(back) is type(lazy)
            assert back.key == lazy.key
            assert list(back.graph.items()) == list(lazy.graph.items())
            if lazy.graph:
                assert result(back) == result(lazy)
                assert n_tasks(back, lazy) == n_tasks(lazy)

    def test_nout_survives_a_pickle(self):
        assert len(pickle.loads(pickle.dumps(delayed(divmod, nout=2)(7, 2)))) == 2

    def test_long_chain_can_be_pickled(self):
        lazy = delayed(inc)(0)
        for _ in range(20_000):
            lazy = delayed(inc)(lazy)
        back = pickle.loads(pickle.dumps(lazy))
        assert result(back) == 20_001

    def test_function_that_sees_itself_delayed(self):
        source = "from manyhands.delayed import delayed\n@delayed\ndef f(x):\n    return f\n"
        module = types.ModuleType("__main__")
        exec(source, module.__dict__)
        back = pickle.loads(cloudpickle.dumps(module.f(1)))
        assert isinstance(result(back), Delayed)


# Collecting


Point = namedtuple("Point", "x y")


class Tuple(tuple):
    """A tuple that is not looked into."""


@dataclasses.dataclass
class Plain:
    a: object
    b: object = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: object
    b: object = 7


@dataclasses.dataclass
class Slotted:
    __slots__ = ("a", "b")
    a: object
    b: object


@dataclasses.dataclass
class Derived:
    a: object
    twice: object = dataclasses.field(init=False)

    def __post_init__(self):
        self.twice = self.a * 2


class TestCollect:
    def test_met_twice_is_one_task(self):
        lazy = delayed(inc)(1)
        assert n_tasks(lazy, [lazy], delayed(add)(lazy, lazy)) == 2

    def test_equal_impure_calls_are_two_tasks(self):
        draw = delayed(random.random)
        assert n_tasks([draw() for _ in range(8)]) == 8

    def test_equal_pure_calls_are_one_task(self):
        pure = delayed(add, pure=True)
        assert n_tasks([pure(1, 2) for _ in range(8)]) == 1
        assert n_tasks(pure(1, 2), pure(1, b=2), pure(1, 3), pure(1.0, 2), pure("1", 2)) == 5
        array = np.arange(10)
        assert n_tasks(pure(array), pure(array.copy()), pure(array + 1)) == 2
        assert n_tasks(pure(pure(1)), pure(pure(1))) == 2
        assert n_tasks(pure(b=1, a=2), pure(a=2, b=1)) == 1

    def test_tokens_belong_to_living_objects(self):
        """What a repeated call brought along is gone when the next one is compared."""
        pure = delayed(lambda x: x.b, pure=True)
        one = delayed(inc)(1)
        lazy = [pure(Plain(one, [i // 3])) for i in range(300)]
        assert n_tasks(lazy) == 101
        assert _native._probe_evaluate(*lazy) == tuple([i // 3] for i in range(300))

    def test_equal_functions_make_equal_tasks(self):
        def make():
            return delayed(lambda x: x + 1, pure=True)

        assert make()(1).key == make()(1).key
        assert n_tasks(make()(1), make()(1)) == 1

    def test_equal_operators_are_one_task(self):
        lazy = delayed(inc)(1)
        assert n_tasks(lazy + 1, lazy + 1, lazy + 2) == 3
        assert n_tasks(lazy[0:2], lazy[0:2], lazy.real, lazy.real) == 3
        assert n_tasks(lazy[{1, 2}], lazy[{2, 1}]) == 2

    def test_pure_task_whose_key_was_read_is_still_one(self):
        lazy = delayed(inc)(1)
        read, unread = lazy + 1, lazy + 1
        assert read.key
        assert n_tasks(read, unread) == 2
        assert n_tasks(unread, read) == 2

    def test_a_chosen_key_is_one_task(self):
        f = delayed(add)
        shared = delayed(inc)(1)
        assert n_tasks(f(1, dask_key_name="k"), f(1, dask_key_name="k")) == 1
        data = [np.arange(3), "x"]
        assert n_tasks(f(data, dask_key_name="k"), f(data, dask_key_name="k")) == 1
        assert n_tasks(f([shared], dask_key_name="k"), f([shared], dask_key_name="k")) == 2
        assert n_tasks(f(1, b={shared: 2}, dask_key_name=(1, "k")), f(1, b={shared: 2}, dask_key_name=(1, "k"))) == 2
        lock = threading.Lock()
        assert n_tasks(f(lock, dask_key_name="k"), f(lock, dask_key_name="k")) == 1

    @pytest.mark.parametrize(
        "other",
        [
            lambda: delayed(add)(2, dask_key_name="k"),
            lambda: delayed(inc)(1, dask_key_name="k"),
            lambda: delayed(add)(1, b=2, dask_key_name="k"),
            lambda: delayed(add)(delayed(add)(1), dask_key_name="k"),
            lambda: delayed([delayed(add)(1)], name="k"),
        ],
    )
    def test_one_chosen_key_for_two_computations(self, other):
        with pytest.raises(ValueError, match="the key 'k' was given to two different computations"):
            n_tasks(delayed(add)(1, dask_key_name="k"), other())

    def test_chosen_key_equal_to_a_made_one(self):
        made = delayed(add)(1)
        with pytest.raises(ValueError, match=re.escape(repr(made.key))):
            n_tasks(made, delayed(add)(2, dask_key_name=made.key))

    def test_dependencies_come_first(self):
        a, b = delayed(inc)(1), delayed(inc)(2)
        graph = delayed(add)(a, delayed(add)(b, a)).graph
        seen = set()
        for key in graph:
            assert graph.dependencies[key] <= seen
            seen.add(key)

    def test_data_is_no_task(self, evaluate):
        assert n_tasks(delayed(5), [delayed(inc)], delayed([1])) == 0
        assert evaluate(delayed(5), [delayed([1]), delayed(inc)]) == (5, [[1], inc])
        assert n_tasks(delayed(add)(delayed(1), b=delayed(2))) == 1
        assert evaluate(delayed(add)(delayed(1), b=delayed(2))) == (3,)

    def test_data_with_delayed_inside_is_a_task(self, evaluate):
        inside = delayed([1, delayed(inc)(1)])
        assert inside.key.startswith("list-")
        assert n_tasks(inside) == 2
        assert evaluate(inside, inside[1]) == ([1, 2], 2)

    def test_delayed_without_traverse(self):
        one = delayed(inc)(1)
        (back,) = _native._probe_evaluate(delayed([one], traverse=False))
        assert back[0] is one

    def test_collect_without_traverse(self):
        one = delayed(inc)(1)
        held = [one]
        back, number = _native._probe_evaluate(held, one, traverse=False)
        assert back is held
        assert number == 2

    def test_collections_keep_type_and_shape(self, evaluate):
        one, two = delayed(inc)(0), delayed(inc)(1)
        ordered = OrderedDict(b=one, a=two)
        default = defaultdict(list, {one: two})
        args = (
            [one, [two, (one,)]],
            (two, "x"),
            Point(one, y=2),
            {one, 5},
            frozenset([two]),
            {"k": one, two: {"n": [one]}},
            slice(one, None, two),
            ordered,
            default,
            Plain(one, [two]),
            Frozen(two),
            Slotted(one, 2),
            Derived(two),
        )
        back = evaluate(*args)
        assert back == (
            [1, [2, (1,)]],
            (2, "x"),
            Point(1, 2),
            {1, 5},
            frozenset([2]),
            {"k": 1, 2: {"n": [1]}},
            slice(1, None, 2),
            OrderedDict(b=1, a=2),
            {1: 2},
            Plain(1, [2]),
            Frozen(2),
            Slotted(1, 2),
            back[-1],
        )
        assert [type(arg) for arg in back] == [type(arg) for arg in args]
        assert back[8].default_factory is list
        assert list(back[7]) == ["b", "a"]
        assert (back[-1].a, back[-1].twice) == (2, 4)
        # The originals are as they were.
        assert args[0][0] is one
        assert args[9].a is one
        assert ordered["b"] is one
        assert default[one] is two

    def test_collections_as_arguments(self, evaluate):
        one = delayed(inc)(0)
        same = delayed(lambda *args, **kwargs: (args, kwargs))
        lazy = same([one], {"a": (one, 2)}, Plain({one}), key=slice(one), other=Point(1, [one]), plain=[1])
        assert evaluate(lazy) == (
            (
                ([1], {"a": (1, 2)}, Plain({1})),
                {"key": slice(1), "other": Point(1, [1]), "plain": [1]},
            ),
        )

    def test_what_holds_nothing_is_the_same_object(self):
        held = [[1], {"a": object()}, (3,), Plain(1), np.arange(3), Point(1, [2])]
        back = _native._probe_evaluate(*held, [held], 5)
        assert all(a is b for a, b in zip(back, held))
        assert back[-2][0] is held
        same = delayed(lambda *args: args)
        assert all(a is b for a, b in zip(_native._probe_evaluate(same(*held))[0], held))

    def test_iterators_are_read(self, evaluate):
        one = delayed(inc)(0)
        assert evaluate(iter([one, 5]), iter((1, one)), iter({one})) == ([1, 5], (1, 1), {1})
        kind = delayed(lambda x: type(x).__name__)
        assert evaluate(kind(iter([1])), kind(iter((1,))), kind(range(2))) == ("list", "tuple", "range")

    def test_other_classes_are_not_looked_into(self):
        one = delayed(inc)(0)
        held = Tuple([one])
        assert n_tasks(held) == 0
        assert _native._probe_evaluate(held)[0] is held

    def test_arguments_are_taken_at_the_time_of_the_call(self, evaluate):
        total = delayed(sum)
        batch = []
        lazy = []
        for i in range(4):
            batch.append(delayed(inc)(i))
            lazy.append(total(batch))
        batch.clear()
        held = Plain(delayed(inc)(1))
        lazy.append(delayed(lambda x: x.a)(held))
        held.a = 100
        assert evaluate(lazy) == ([1, 3, 6, 10, 2],)

    def test_identity_inside_one_task(self, evaluate):
        one = delayed(inc)(1)
        same = delayed(lambda a, b, *, c: (a is b, a is c))
        held = [1]
        assert evaluate(same(held, held, c=held)) == ((True, True),)
        assert evaluate(same(held, held, c=one)) == ((True, False),)
        lists = delayed(list)("ab")
        assert evaluate(same(lists, lists, c=one)) == ((True, False),)

    def test_cyclic_collections(self):
        one = delayed(inc)(1)
        held = [one]
        held.append(held)
        assert n_tasks(held) == 1
        assert n_tasks(delayed(len)(held)) == 2
        assert result(delayed(lambda x: x[0])(held)) == 2
        plain = {}
        plain["self"] = plain
        back, other = _native._probe_evaluate(plain, one)
        assert back is plain
        assert other == 2
        deep = [plain, [one]]
        plain["deep"] = deep
        assert _native._probe_evaluate(deep)[0][1] == [2]

    def test_deep_collections(self, evaluate):
        nested = delayed(inc)(0)
        for _ in range(500):
            nested = [nested]
        (back,) = evaluate(nested)
        for _ in range(500):
            (back,) = back
        assert back == 1
        for _ in range(100_000):
            nested = [nested]
        with pytest.raises(RecursionError, match="nested more than 1000 deep"):
            n_tasks(nested)

    def test_walks_in_two_threads(self):
        """The second walk starts inside the first: a dataclass lets Python run while it is looked into."""
        shared = [delayed(inc)(i) for i in range(100)]
        found = []

        class Prying:
            def __get__(self, instance, owner):
                thread = threading.Thread(target=lambda: found.append(n_tasks(shared, shared)))
                thread.start()
                thread.join()
                return shared

        Slow = dataclasses.make_dataclass("Slow", ["a"])
        slow = Slow(1)
        del slow.a
        Slow.a = Prying()
        assert n_tasks(shared[:50], delayed(add)(1), slow, shared) == 101
        assert found == [100]

    def test_wide_merge_with_repeats(self, evaluate):
        leaves = [delayed(inc)(i) for i in range(1000)]
        assert evaluate(delayed(sum)(leaves + leaves[::-1])) == (2 * sum(range(1, 1001)),)
        assert evaluate(leaves[3], leaves, leaves[3:5]) == (4, list(range(1, 1001)), [4, 5])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_random_graphs_are_as_python_runs_them(data):
    """Calls drawn at random, with repeats, collections and purity, against the same calls made at once."""
    function = lambda *args, **kwargs: (len(args), args, tuple(sorted(kwargs.items())))
    lazy_function = delayed(function)
    pure_function = delayed(function, pure=True)
    lazy, eager = [], []

    def draw_argument(depth=0):
        kinds = ["scalar"] + ["made"] * 3 * bool(lazy) + ["list", "tuple", "dict"] * (depth < 2)
        kind = data.draw(st.sampled_from(kinds))
        if kind == "scalar":
            value = data.draw(st.one_of(st.integers(), st.text(max_size=3), st.none()))
            return value, value
        if kind == "made":
            i = data.draw(st.integers(0, len(lazy) - 1))
            return lazy[i], eager[i]
        pairs = [draw_argument(depth + 1) for _ in range(data.draw(st.integers(0, 3)))]
        if kind == "dict":
            return {i: a for i, (a, _) in enumerate(pairs)}, {i: b for i, (_, b) in enumerate(pairs)}
        collect = {"list": list, "tuple": tuple}[kind]
        return collect(a for a, _ in pairs), collect(b for _, b in pairs)

    for _ in range(data.draw(st.integers(1, 8))):
        args = [draw_argument() for _ in range(data.draw(st.integers(0, 3)))]
        kwargs = {name: draw_argument() for name in data.draw(st.sets(st.sampled_from("xyz")))}
        chosen = data.draw(st.sampled_from([lazy_function, pure_function]))
        lazy.append(chosen(*(a for a, _ in args), **{k: a for k, (a, _) in kwargs.items()}))
        eager.append(function(*(b for _, b in args), **{k: b for k, (_, b) in kwargs.items()}))
    for through_bytes in (False, True):
        assert _native._probe_evaluate(*lazy, lazy, through_bytes=through_bytes) == (*eager, eager)
    keys = [one.key for one in lazy]
    assert n_tasks(lazy) == len(set(keys))


# Size and life


class TestLife:
    def test_long_chain(self):
        lazy = delayed(inc)(0)
        step = delayed(inc)
        for _ in range(N_LONG - 1):
            lazy = step(lazy)
        assert _native._probe_evaluate(lazy) == (N_LONG,)
        del lazy

    @pytest.mark.parametrize(
        "step",
        [
            lambda x: x + 1,
            lambda x: x.real,
            lambda x: x[x:],
            lambda x: x.method(),
            lambda x: x(),
            lambda x: delayed([x]),
            lambda x: delayed(add)(1, b={"k": [x]}),
        ],
        ids=["operator", "attribute", "slice", "method", "call", "data", "keyword"],
    )
    def test_long_chains_of_all_kinds_are_collected_and_dropped(self, step):
        lazy = delayed(inc)(0)
        for _ in range(100_000):
            lazy = step(lazy)
        assert n_tasks(lazy) == 100_001

        def drop(chain):
            chain.pop()

        # A thread has less stack than the main thread.
        chain = [lazy]
        del lazy
        thread = threading.Thread(target=drop, args=(chain,))
        thread.start()
        thread.join()
        assert chain == []

    def test_wide_graph(self):
        leaf = delayed(inc)
        leaves = [leaf(i) for i in range(200_000)]
        assert n_tasks(leaves, delayed(sum)(leaves)) == 200_001

    @pytest.mark.parametrize("plain", [True, False])
    def test_cycles_through_delayed_are_garbage(self, plain):
        """A function that sees the list of its own calls; and one whose calls are not even tracked."""

        class Study:
            def fit(self, fold):
                return fold

        study = Study()
        study.lazy_fit = delayed(inc) if plain else delayed(study.fit)
        study.tasks = [study.lazy_fit(i) for i in range(10)]
        study.tasks.append(study.lazy_fit(study.tasks[0]))
        study.tasks.append(study.lazy_fit([study]) + 1)
        assert gc.is_tracked(study.tasks[0]) is not plain
        reference = weakref.ref(study)
        del study
        gc.collect()
        assert reference() is None

    def test_closures_over_tasks_are_garbage(self):
        class Held(list):
            pass

        def make():
            tasks = Held()

            @delayed
            def function(i):
                return tasks

            tasks.extend(function(i) for i in range(10))
            return weakref.ref(tasks)

        reference = make()
        gc.collect()
        assert reference() is None

    def test_drops_what_it_held(self):
        class Model:
            pass

        model = Model()
        reference = weakref.ref(model)
        lazy = delayed(add)(model, b=[model, delayed(inc)(1)])
        n_tasks(lazy)
        del model, lazy
        assert reference() is None


# Descriptions
