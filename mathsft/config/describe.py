"""Describes settings as rows of text: every setting of the schema, or the values of a study with the source of each."""

from dataclasses import dataclass
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mathsft.config.check import as_yaml
from mathsft.config.load import Loaded, flatten
from mathsft.config.names import settings_of
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig

_WORDS: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}


@dataclass(frozen=True)
class SettingRow:
    """One setting of the schema, as text."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class ResolvedSetting:
    """The value of one setting of a study; source is "default", "file:line" or a flag such as "--set"."""

    name: str
    value: str
    source: str


def schema_rows() -> list[SettingRow]:
    """Return every setting of an experiment, then every setting of a study."""
    rows: dict[str, SettingRow] = {}
    for setting in chain(settings_of(Experiment), settings_of(StudyConfig)):
        type_text = _type_text(setting.field.annotation, setting.field)
        if setting.name in rows and type_text not in rows[setting.name].type:  # `low` is a number or a whole number
            type_text = f"{rows[setting.name].type} or {type_text}"
        default = "required" if setting.default is PydanticUndefined else _plain(setting.default)
        meaning = " ".join((setting.field.description or "").split())
        rows[setting.name] = SettingRow(setting.name, type_text, default, meaning)
    return list(rows.values())


def resolved_rows(loaded: Loaded) -> list[ResolvedSetting]:
    """Return the value of every setting of a loaded study: the study's settings, then the experiment's."""
    values = {**flatten(loaded.study), **flatten(loaded.experiment)}
    return [ResolvedSetting(name, _plain(value), loaded.sources.get(name, "default")) for name, value in values.items()]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else as_yaml(value)


def _type_text(annotation: Any, field: FieldInfo | None) -> str:
    """Return a type in words, with the limits of the field."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(arguments)
    if origin is Annotated:
        return _type_text(arguments[0], next(part for part in arguments[1:] if isinstance(part, FieldInfo)))
    if origin is tuple:
        return f"list of: {_type_text(arguments[0], None)}"
    if origin is dict:
        return f"section of: {_type_text(arguments[1], None)}"
    if origin in (Union, UnionType):
        return " or ".join(_type_text(argument, field if argument is not NoneType else None) for argument in arguments)
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in (field.metadata if field else [])
        for name, sign in {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}.items()
        if hasattr(limit, name)
    ]
    return _WORDS[annotation] + (f" {' and '.join(limits)}" if limits else "")
