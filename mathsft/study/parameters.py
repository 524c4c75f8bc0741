"""Names Optuna's parameters: a searched setting has the last word of its dotted name where no other one ends with it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any


def short_names(space: Iterable[str]) -> dict[str, str]:
    """Return each searched setting's short name: its last word, if it is the only setting with this last word."""
    settings = list(space)
    words = [setting.rpartition(".")[2] for setting in settings]
    return {setting: word if words.count(word) == 1 else setting for setting, word in zip(settings, words, strict=True)}


def parameter_names(space: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Return the parameter of each searched setting in a study whose trials have the parameters `taken`.

    If these include dotted names, an earlier version began the study, and it keeps the dotted names.
    """
    short = short_names(space)
    return short if short.keys().isdisjoint(taken) else {setting: setting for setting in short}


def settings_of(space: Iterable[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a trial's parameters by the dotted names of the settings; short and dotted names are known."""
    names = short_names(space)
    return {setting: parameters[name] for setting, short in names.items() for name in {short, setting} if name in parameters}
