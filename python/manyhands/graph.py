"""The tasks behind a Delayed, to look at."""

from __future__ import annotations

from _collections_abc import Mapping

from manyhands._native import _graph

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from manyhands._native import Delayed

__all__ = ["Graph"]


class Graph(Mapping[object, str]):
    """A read-only mapping from the key of each task to a description of it, tasks after their dependencies.

    Parameters
    ----------
    *wanted : Delayed
        The tasks to show, with all that they need.

    Attributes
    ----------
    dependencies : dict of set
        For each key, the keys of the tasks whose results the task reads.
    dependents : dict of set
        For each key, the keys of the tasks that read its result.

    Examples
    --------
    >>> import manyhands as mh
    >>> one = mh.delayed(abs)(-1, dask_key_name="one")
    >>> two = mh.delayed(sum)([one, one], dask_key_name="two")
    >>> two.graph
    Graph of 2 tasks
    >>> dict(two.graph)
    {'one': 'abs(-1)', 'two': 'sum([<one>, <one>])'}
    >>> two.graph.dependencies["two"]
    {'one'}
    """

    __slots__ = ("_dependencies", "_dependents", "_descriptions", "_needs")

    def __init__(self, *wanted: Delayed) -> None:
        keys, descriptions, rows, needs = _graph(*wanted)
        self._descriptions = dict(zip(keys, descriptions))
        self._dependencies = {key: {keys[i] for i in row} for key, row in zip(keys, rows)}
        self._needs = dict(zip(keys, needs))
        self._dependents: dict[Any, set[Any]] | None = None

    def __getitem__(self, key: object) -> str:
        return self._descriptions[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._descriptions)

    def __len__(self) -> int:
        return len(self._descriptions)

    def __repr__(self) -> str:
        return f"Graph of {len(self)} task{'' if len(self) == 1 else 's'}"

    @property
    def dependencies(self) -> dict[Any, set[Any]]:
        """For each key, the keys of the tasks whose results the task reads.

        Examples
        --------
        >>> import manyhands as mh
        >>> one = mh.delayed(abs)(-1, dask_key_name="one")
        >>> mh.delayed(sum)([one], dask_key_name="total").graph.dependencies
        {'one': set(), 'total': {'one'}}
        """
        return self._dependencies

    @property
    def dependents(self) -> dict[Any, set[Any]]:
        """For each key, the keys of the tasks that read its result.

        Examples
        --------
        >>> import manyhands as mh
        >>> one = mh.delayed(abs)(-1, dask_key_name="one")
        >>> mh.delayed(sum)([one], dask_key_name="total").graph.dependents
        {'one': {'total'}, 'total': set()}
        """
        if self._dependents is None:
            dependents: dict[Any, set[Any]] = {key: set() for key in self._descriptions}
            for key, read in self._dependencies.items():
                for dependency in read:
                    dependents[dependency].add(key)
            self._dependents = dependents
        return self._dependents

    def to_dot(self) -> str:
        """Write the graph in the language of Graphviz: a node for each task, an arrow from what it reads.

        A second line of a node says which resources the task needs, if it does.

        Returns
        -------
        str
            For the program ``dot``, or any of the pages that draw such a text.

        Examples
        --------
        >>> import manyhands as mh
        >>> one = mh.delayed(abs)(-1, dask_key_name="one")
        >>> print(mh.delayed(sum)([one], dask_key_name="total").graph.to_dot())
        digraph manyhands {
            rankdir=BT
            node [shape=box, fontname=Helvetica]
            t0 [label="abs(-1)"]
            t1 [label="sum([<one>])"]
            t0 -> t1
        }
        """
        numbers = {key: number for number, key in enumerate(self)}
        lines = ["digraph manyhands {", "    rankdir=BT", "    node [shape=box, fontname=Helvetica]"]
        for key, text in self.items():
            needs = ", ".join(f"{name}: {amount}" for name, amount in self._needs.get(key, {}).items())
            lines.append(f"    t{numbers[key]} [label={_quoted(text, needs)}]")
        for key, read in self._dependencies.items():
            lines += [f"    t{number} -> t{numbers[key]}" for number in sorted(numbers[other] for other in read)]
        return "\n".join([*lines, "}"])

    def visualize(self, filename: str | None = None, format: str | None = None) -> str:  # noqa: A002 - as in Dask
        """Draw the graph.

        Parameters
        ----------
        filename : str, optional
            Where the picture goes. A name that ends in ``.dot`` or ``.gv`` gets the text of `to_dot`; anything else,
            such as ``.svg``, ``.png`` or ``.pdf``, is drawn by Graphviz's program ``dot``, which has to be installed.
        format : str, optional
            What kind of picture; by default what the name ends in, else ``"png"``. A name that does not end in it gets
            it as its ending.

        Returns
        -------
        str
            The name of the file; without `filename`, the text of `to_dot`.

        Raises
        ------
        Error
            If the program ``dot`` is needed and is not there, or fails.

        Examples
        --------
        >>> import manyhands as mh
        >>> mh.delayed(abs)(-1).graph.visualize().splitlines()[3]
        '    t0 [label="abs(-1)"]'
        """
        text = self.to_dot()
        if filename is None:
            return text
        import os

        ending = os.path.splitext(filename)[1].removeprefix(".")
        kind = format or ending or "png"
        if ending != kind:
            filename = f"{filename}.{kind}"
        if kind in ("dot", "gv"):
            with open(filename, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        else:
            _draw(text, filename, kind)
        return filename


def _quoted(text: str, below: str) -> str:
    """A text as a label, with another line below if there is one."""
    shortened = text if len(text) <= 80 else f"{text[:77]}..."
    shortened += f"\n{below}" if below else ""
    escaped = shortened.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _draw(text: str, filename: str, format: str) -> None:  # noqa: A002
    """Have Graphviz draw a graph."""
    import subprocess

    from manyhands.errors import Error

    try:
        subprocess.run(["dot", f"-T{format}", "-o", filename], input=text.encode(), capture_output=True, check=True)
    except FileNotFoundError:
        raise Error(
            f"{filename!r} would be drawn by Graphviz's program 'dot', which is not on the PATH. Install Graphviz, or "
            "name a file that ends in .dot, or none: visualize() returns the graph as text."
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise Error(f"Graphviz's program 'dot' cannot draw {filename!r} as {format!r}: {reason}") from None
