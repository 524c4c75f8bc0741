"""Parses a YAML file, or a value from the command line, into plain values, with the line of every key.

The dialect is the core schema of YAML 1.2: 1e-5 is a number, `off` and `no` are text. A duplicate key is an error, and only
null, true, false, numbers, text, lists and mappings are constructed.
"""

import re
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from mathsft.errors import UserError

NestedSettings: TypeAlias = dict[str, Any]
"""Nested dicts of plain values, as they are read from YAML, with tuples for lists."""

_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": r"null|~|",
    "bool": r"true|false",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)[eE][-+]?[0-9]+|[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+|\.inf)|\.nan",
}
_MAX_DEPTH = 20
"""Far deeper than any setting. The limit stops the recursion into an anchor that contains itself."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema of YAML 1.2 instead of YAML 1.1's, which reads `no` as false."""

    # Under the key None are the patterns for plain scalars with any first character.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        None: [(_TAG + name, re.compile(rf"^(?:{pattern})$")) for name, pattern in _PATTERNS.items()]
    }


class _MalformedError(Exception):
    """The text is not valid; the message is the reason."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def read_document(path: Path) -> tuple[NestedSettings, dict[str, str]]:
    """Read a YAML mapping; return its values, and the place "file:line" of each dotted key ("" for the whole file).

    Raises UserError with the file and the line if the file cannot be read or is not valid.
    """
    shown = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    lines = {"": 1}
    try:
        loader, node = _compose(path.read_bytes().decode("utf-8-sig"))
        if not isinstance(node, yaml.MappingNode):
            raise _MalformedError(_line(node) if node else 1, "must hold settings, one `key: value` a line")
        tree = _value(loader, node, lines)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise UserError(f"{shown}:{line}: not UTF-8 text (byte {byte:#04x}); save the file as UTF-8") from None
    except _MalformedError as error:
        raise UserError(f"{shown}:{error.line}: {error}") from None
    return tree, {name: f"{shown}:{line}" for name, line in lines.items()}


def read_value(text: str, origin: str) -> Any:
    """Read a YAML value from the command line; raises UserError, which begins with `origin`, if it is not valid."""
    try:
        loader, node = _compose(text)
        return None if node is None else _value(loader, node, {})
    except _MalformedError as error:
        raise UserError(f"{origin}: {text}: {error}") from None


def _compose(text: str) -> tuple[_Loader, yaml.Node | None]:
    try:
        loader = _Loader(text)
        return loader, loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _MalformedError(line, f"not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _MalformedError(line, f"not valid YAML: the character {ord(text[error.position]):#04x}") from None


def _value(loader: _Loader, node: yaml.Node, lines: dict[str, int], prefix: str = "", depth: int = 0) -> Any:
    """Return the plain value of a node, and add the line of every key and list item in it to `lines`, by dotted name."""
    if depth > _MAX_DEPTH:
        raise _MalformedError(_line(node), f"nested more than {_MAX_DEPTH} deep")
    if isinstance(node, yaml.MappingNode):
        values: NestedSettings = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _MalformedError(_line(key_node), "a setting's name must be text, not a list or a mapping")
            key = str(key_node.value)
            if key in values:
                raise _MalformedError(_line(key_node), f"{key}: given twice; keep one of them")
            lines[f"{prefix}{key}"] = _line(key_node)
            values[key] = _value(loader, value_node, lines, f"{prefix}{key}.", depth + 1)
        return values
    if isinstance(node, yaml.SequenceNode):
        lines.update((f"{prefix}{index}", _line(item)) for index, item in enumerate(node.value))
        return tuple(
            _value(loader, item, {}, "", depth + 1) for item in node.value
        )  # a list item has one line for all of it
    if node.tag.removeprefix(_TAG) not in ("null", "bool", "int", "float", "str"):
        raise _MalformedError(_line(node), f"the tag {node.tag} has no meaning in settings")
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError):  # an explicit tag on a value of another type: `!!int abc`
        raise _MalformedError(_line(node), f"{node.value!r} is not of the type {node.tag}") from None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
