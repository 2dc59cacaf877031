"""YAML that people write, read safely: nothing in it runs code, grows beyond its size, or silently wins over itself.

PyYAML's safe loader makes plain values only. Here it also refuses a key that stands twice in one mapping (it would
take the last), aliases that multiply («billion laughs») or hold themselves, and endless nesting; and whatever a
value's constructor stumbles over is told with its line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
"""Largest file."""
MAX_DEPTH = 40
"""Deepest nesting of lists and mappings."""
MAX_NODES = 100_000
"""Most keys and values, those that an alias repeats counted again."""

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml_file(path: Path, *, clock_times: bool = False) -> Any:
    """Return what a YAML file says.

    Args:
        path: The file.
        clock_times: Read 4:00:00 as it stands; YAML 1.1 takes it for a number to the base of 60.

    Raises:
        OSError: The file cannot be read.
        yaml.YAMLError: It is no YAML, or goes beyond the bounds above; most have a `problem_mark`.
    """
    with path.open("rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"the file is larger than {MAX_BYTES} bytes")
    try:
        return load_yaml(data.decode("utf-8-sig"), clock_times=clock_times)
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"the file is no UTF-8 text: {error}") from None


def load_yaml(text: str, *, clock_times: bool = False) -> Any:
    """Return what a YAML text says; see `read_yaml_file`.

    Raises:
        yaml.YAMLError: It is no YAML, or goes beyond the bounds above.
    """
    loader = (_ClockLoader if clock_times else _BoundedLoader)(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _BoundedLoader(yaml.SafeLoader):
    """The safe loader with bounds. Line numbers come from the nodes' marks."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}
        """Node by `id` -> how many nodes it stands for."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and count it, aliases with all that they repeat."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _refused("an alias inside of what it stands for", mark)
            self._count(self._sizes[id(node)], mark)
            return node
        before = self._nodes
        self._count(1, mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._nodes - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping none of whose keys stands twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen and key.tag != _MERGE:
                raise _refused(f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(name)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Make a node's value; errors of the value itself get its line."""
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            # PyYAML lets them through for texts that their tag cannot be, such as the date 2001-99-99
            kind = node.tag.rpartition(":")[2]
            text = " ".join(f"{error}".split())
            raise _refused(f"no {kind} can be made of this value ({text})", node.start_mark) from None

    def _count(self, number: int, mark: Any) -> None:
        self._nodes += number
        if self._nodes > MAX_NODES:
            raise _refused(f"more than {MAX_NODES} values, aliases counted out", mark)


class _ClockLoader(_BoundedLoader):
    """The bounded loader for which numbers are to the base of ten."""


_ClockLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":int", ":float"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_ClockLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?\d+$"), list("-+0123456789"))
_ClockLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?$", re.IGNORECASE),
    list("-+.0123456789"),
)


def _refused(problem: str, mark: Any) -> yaml.YAMLError:
    error: yaml.YAMLError = yaml.composer.ComposerError(None, None, problem, mark)
    return error
