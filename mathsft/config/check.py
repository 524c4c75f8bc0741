"""Checks plain values against a section of the schema: returns the settings, or raises one readable line per problem.

pydantic checks strictly: 32.0 and true are not whole numbers. Its messages are replaced by messages in the user's terms,
with the file and the line of the value.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mathsft.config.document import NestedSettings
from mathsft.config.names import unknown_name_message
from mathsft.errors import UserError

SettingsT = TypeVar("SettingsT", bound=BaseModel)

_EXPECTED = {
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list in [brackets]",
    "dict_type": "expected a section of settings",
    "model_type": "expected a section of settings",
    "model_attributes_type": "expected a section of settings",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
}
"""pydantic's type of error -> the message, which the offending value follows."""
_WITHOUT_VALUE = {
    "missing": "missing; it must be given",
    "value_error": "{error}",
    "too_short": "must not be empty",
    "union_tag_not_found": "type is missing; give type: float, int or categorical",
}
"""pydantic's type of error -> the whole message."""


def check(section: type[SettingsT], tree: NestedSettings, places: Mapping[str, str]) -> SettingsT:
    """Return the settings; raises a UserError with one line per problem.

    `places` maps dotted keys to where they were given ("file:line"), and "" to the place of all other keys ("" for none).
    """
    try:
        return section.model_validate(tree, strict=True)
    except ValidationError as error:
        problems = error.errors()
    lines: dict[str, str] = {}
    for problem in problems:
        name = _name(problem, tree)
        nearest = name  # the place of a name that is not given is that of its closest enclosing section
        while nearest not in places:
            nearest = nearest.rpartition(".")[0]
        # pydantic reports a value that matches none of several allowed types once for each type.
        if name in lines and problem["type"].endswith("_type"):
            line = f"{name}: expected a number, text, true or false{_got(problem)}"
        else:
            line = _explain(section, name, problem)
        lines[name] = f"{places[nearest]}: {line}" if places[nearest] else line
    raise UserError("\n".join(lines.values()))


def as_yaml(value: object) -> str:
    """Return a value as it is written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(item)}' for key, item in value.items())}}}"
    return repr(value)


def _name(problem: ErrorDetails, tree: NestedSettings) -> str:
    """Return the dotted name of the setting with the problem: pydantic's path without the names of union branches."""
    inner: Any = tree
    parts: list[str] = []
    for part in problem["loc"]:
        if part in inner if isinstance(inner, dict) else isinstance(inner, tuple) and isinstance(part, int):
            inner = inner[part]
            parts.append(str(part))
    if problem["type"] == "missing":
        parts.append(str(problem["loc"][-1]))
    return ".".join(parts)


def _explain(section: type[BaseModel], name: str, problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_name_message(name, section)
    if kind == "union_tag_invalid":
        return f"{name}.type: expected {context['expected_tags']}, got {context['tag']!r}"
    start = f"{name}: " if name else ""  # a validator of the whole section has no name, and its text names the settings
    if kind in _WITHOUT_VALUE:
        return start + _WITHOUT_VALUE[kind].format(**context)
    expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else problem["msg"]
    return f"{start}{expected}{_got(problem)}"


def _got(problem: ErrorDetails) -> str:
    return f", got {as_yaml(problem['input'])}"
