"""What is public is documented, annotated, and really there."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import manyhands as mh

OBJECTS = {name: getattr(mh, name) for name in mh.__all__}
# A constant has the docstring of its type.
DOCUMENTED = [name for name, obj in OBJECTS.items() if not isinstance(obj, (str, int, tuple))]
FUNCTIONS = {name: obj for name, obj in OBJECTS.items() if inspect.isroutine(obj)}

# What an import must not drag in: each costs milliseconds that every user pays, needed or not.
HEAVY_MODULES = [
    "dask",
    "manyhands.dask",
    "manyhands.distributed",
    "numpy",
    "asyncio",
    "concurrent.futures",
    "cloudpickle",
    "pickle",
    "logging",
    "inspect",
    "subprocess",
]


def test_all_names_are_unique_and_listed_by_dir():
    assert len(mh.__all__) == len(set(mh.__all__))
    assert set(mh.__all__) <= set(dir(mh))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        mh.no_such_name


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_has_a_docstring(name):
    assert (OBJECTS[name].__doc__ or "").strip(), f"manyhands.{name} has no docstring"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_documents_its_parameters_and_shows_an_example(name):
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function) or ""
    parameters = [p for p in inspect.signature(function).parameters if p not in {"self", "args", "kwargs"}]
    for parameter in parameters:
        assert parameter in doc, f"manyhands.{name}: the docstring does not speak of {parameter!r}"
    assert ">>> " in doc, f"manyhands.{name}: the docstring has no example"


@pytest.mark.parametrize("module", HEAVY_MODULES)
def test_the_import_is_light(module):
    program = f"import sys; old = set(sys.modules); import manyhands; print({module!r} in set(sys.modules) - old)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
