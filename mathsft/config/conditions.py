"""Knows which settings have an effect only with a certain value of another setting, and refuses those that have none."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import Choices, SearchRange

_CONDITIONS: Mapping[str, tuple[str, Scalar]] = {
    "training.lora.": ("training.method", "lora"),
    "training.decay_fraction": ("training.schedule", "wsd"),
}
"""A setting, or a section of settings that ends with a dot -> the setting and the value that it needs."""

Value = TypeVar("Value")


def condition_of(name: str) -> tuple[str, Scalar] | None:
    """Return the setting, and its value, without which the setting `name` has no effect; None if it always has one."""
    return next((needed for prefix, needed in _CONDITIONS.items() if name.startswith(prefix)), None)


def applies(name: str, chosen: Mapping[str, Scalar]) -> bool:
    """Return whether a searched setting has an effect with these values of searched settings."""
    needed = condition_of(name)
    # A condition that is not searched holds: `inert_settings` refuses the study otherwise.
    return needed is None or chosen.get(needed[0], needed[1]) == needed[1]


def applicable(chosen: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the values of those searched settings that have an effect."""
    return {name: value for name, value in chosen.items() if applies(name, chosen)}


def conditions_first(space: Mapping[str, Value]) -> dict[str, Value]:
    """Return the searched settings in an order in which every setting follows the one that it needs."""
    needed = {condition[0] for name in space if (condition := condition_of(name))}
    return {name: space[name] for name in sorted(space, key=lambda name: name not in needed)}


def inert_settings(
    values: Mapping[str, object],
    defaults: Mapping[str, object],
    search: Mapping[str, SearchRange],
    enqueue: Sequence[Mapping[str, Scalar]],
) -> Iterator[tuple[str, str]]:
    """Yield the name and a line for each setting of the files and the flags that can have no effect.

    `values` and `defaults` are all settings of the experiment, by dotted name.
    """
    for name, value in values.items():
        if name not in search and value != defaults.get(name) and (reason := _reason(name, values, search)):
            yield name, f"{name}: {reason}"
    for name in search:
        if reason := _reason(name, values, search):
            yield f"search.{name}", f"search: {name}: {reason}"
    for number, settings in enumerate(enqueue):
        for name in settings.keys() - applicable(settings).keys():
            needed = condition_of(name)
            assert needed is not None
            yield (
                f"enqueue.{number}",
                f"enqueue: {name}: has no effect with {needed[0]} = {settings[needed[0]]}; leave it out",
            )


def _reason(name: str, values: Mapping[str, object], search: Mapping[str, SearchRange]) -> str | None:
    """Return why a setting can have no effect in any run of the study, and what to change."""
    needed = condition_of(name)
    if needed is None:
        return None
    owner, value = needed
    if (searched := search.get(owner)) is None:
        possible: Sequence[object] = (values[owner],)
    else:
        possible = searched.choices if isinstance(searched, Choices) else ()
    if value in possible:
        return None
    return f"has no effect with {owner} = {' or '.join(map(str, possible))}; set that to {value}, or leave this out"
