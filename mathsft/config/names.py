"""Lists every setting of the schema by its dotted name, and makes the error message for an unknown name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import Choices, FloatRange, IntRange, StudyConfig

_SEARCHED = "search.SETTING"
"""Placeholder for the dotted name of a searched setting in the names of StudyConfig."""
_RENAMED = {"data.pools.watch": "data.pools.validation"}
"""Former name of a setting -> its current name."""
_REMOVED = {"evaluation.stop": "follows from prompt.answer now; remove it"}
"""Former name of a setting -> why there is none now."""
_LIKENESS = 0.75
"""Least similarity, as difflib's ratio, of an unknown name and the name that the message suggests."""


@dataclass(frozen=True)
class Setting:
    """One setting of the schema; `default` is pydantic's Undefined if a value must be given."""

    name: str
    field: FieldInfo
    default: Any


def settings_of(section: type[BaseModel], prefix: str = "", given: BaseModel | None = None) -> Iterator[Setting]:
    """Yield all settings of a section and its subsections; a searched setting's once for each type of range.

    `given` is the section's default object, which may set a value that its class requires (sampler.name).
    """
    for key, field in section.model_fields.items():
        name = f"{prefix}{key}"
        default = field.default if given is None else getattr(given, key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{name}.", default if isinstance(default, BaseModel) else None)
        elif section is StudyConfig and key == "search":
            for kind in (FloatRange, IntRange, Choices):
                yield from settings_of(kind, f"{_SEARCHED}.")
        else:
            yield Setting(name, field, default)


def unknown_name_message(name: str, section: type[BaseModel] | None = None) -> str:
    """Return "NAME: unknown" with the name that was probably meant; with a section, only its names are suggested."""
    if name in _RENAMED:
        return f"{name}: unknown; it is called {_RENAMED[name]} now"
    if name in _REMOVED:
        return f"{name}: {_REMOVED[name]}"
    known = {owner: _names(owner, name) for owner in (Experiment, StudyConfig)}
    for owner, file, other in ((Experiment, "experiment", "a study"), (StudyConfig, "study", "an experiment")):
        if section not in (None, owner) and name in known[owner]:
            return f"{name}: unknown in {other}; it belongs in the {file}'s file"
    candidates = known[section] if section in known else [*known[Experiment], *known[StudyConfig]]
    meant = _closest(name, candidates)
    if meant:
        return f"{name}: unknown; did you mean {meant}?"
    siblings = [candidate for candidate in candidates if candidate.rpartition(".")[0] == name.rpartition(".")[0]]
    known_names = siblings or [candidate for candidate in candidates if "." not in candidate]
    return f"{name}: unknown; known are {', '.join(known_names)}"


def _names(section: type[BaseModel], asked: str) -> list[str]:
    """Return the names of the section's settings and subsections; the searched setting in `asked` replaces SETTING."""
    names: dict[str, None] = {}
    for setting in settings_of(section):
        name = setting.name
        if name.startswith(_SEARCHED) and asked.startswith("search."):
            name = name.replace(_SEARCHED, asked.rpartition(".")[0])
        parts = name.split(".")
        names.update(dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1)))
    return [name for name in names if not name.startswith(_SEARCHED)]


def _closest(name: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate most similar to the name, or else the first one whose last part is similar to the name's."""
    parent, _, last = name.rpartition(".")
    candidates = [candidate for candidate in candidates if candidate != parent]
    by_key = {candidate.rpartition(".")[2]: candidate for candidate in reversed(candidates)}
    whole = get_close_matches(name, candidates, 1, _LIKENESS)
    return next(iter(whole or [by_key[key] for key in get_close_matches(last, by_key, 1, _LIKENESS)]), None)
