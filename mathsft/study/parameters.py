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

    If these include a dotted name where a short one is possible, an earlier version began the study, and it keeps the
    dotted names.
    """
    short = short_names(space)
    is_dotted = any(setting in taken for setting, name in short.items() if name != setting)
    return {setting: setting for setting in short} if is_dotted else short


def settings_of(space: Iterable[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a trial's parameters by the dotted names of the settings; short and dotted names are known."""
    names = short_names(space)
    return {setting: parameters[name] for setting, short in names.items() for name in {short, setting} if name in parameters}
