"""Says in one line that learning rates were chosen for the other training.method, since LoRA needs higher ones."""

from collections.abc import Mapping
from contextlib import suppress

from mathsft.config.load import Loaded, load_settings
from mathsft.config.schema import TrainingSettings
from mathsft.config.study_schema import FloatRange
from mathsft.config.variants import METHOD, methods
from mathsft.errors import UserError

RATE = "training.learning_rate"
RATIO = 10
"""LoRA's best learning rates are about this many times those of full fine-tuning (Schulman and Thinking Machines Lab, "LoRA
Without Regret", 2025)."""
LEAST_SPAN = 100
"""Least ratio of the ends of a range that serves both methods: RATIO, and as much again for the search itself."""
_FACT = f"LoRA's best rates are about {RATIO} times those of full fine-tuning"


def method_note(loaded: Loaded, *, is_search: bool) -> str | None:
    """Return the line for a study, or for a final run; None if the learning rates fit the method."""
    searched, training = loaded.study.search.get(RATE), loaded.experiment.training
    given = searched if is_search and isinstance(searched, FloatRange) else None
    if is_search and len(methods(training, loaded.study.search)) > 1:
        if given is None or given.high / given.low >= LEAST_SPAN:
            return None
        span = f"{given.low:g} to {given.high:g}"
        return f"The study searches both values of {METHOD} with learning rates of {span}: {_FACT}; widen the range"
    names = [f"search.{RATE}.low", f"search.{RATE}.high"] if given else [RATE]
    if any(loaded.sources.get(name) == "--set" for name in names):
        return None
    own = _own_method(loaded)
    return None if own in (None, training.method) else _switched(own, training.method, given or training.learning_rate)


def promoted_note(loaded: Loaded, final: TrainingSettings, chosen_with: str) -> str | None:
    """Return the line for a final run with a promoted trial's settings; that trial trained with method `chosen_with`."""
    if final.method == chosen_with or loaded.sources.get(RATE) == "--set":
        return None
    rate = f"{final.learning_rate * _factor(final.method):.3g}"
    return f"{METHOD} is {final.method}, but the promoted trial's was {chosen_with}: {_FACT}; try --set {RATE}={rate}"


def warm_note(loaded: Loaded, other: Mapping[str, object], study: str) -> str | None:
    """Return the line for a study whose first trials have the settings of another study; `other` are its settings."""
    searched, ours = other.get(f"search.{METHOD}.choices"), loaded.experiment.training.method
    theirs = " and ".join(map(str, searched if isinstance(searched, list) else [other.get(METHOD, "full")]))
    if METHOD in loaded.study.search or theirs == ours:
        return None
    return f"--warm-from {study}: its learning rates were searched with {METHOD} = {theirs}, this study has {ours}: {_FACT}"


def _own_method(loaded: Loaded) -> str | None:
    """Return the training.method for which the study's file was written: that of the experiment that it names."""
    with suppress(UserError):
        return load_settings(str(loaded.study_path), None, ()).experiment.training.method
    return None


def _switched(own: str, method: str, given: FloatRange | float) -> str:
    factor = _factor(method)
    start = f"{METHOD} is {method}, but the study was written for {own}: {_FACT}"
    if isinstance(given, FloatRange):
        low, high = (f"{end * factor:.3g}" for end in (given.low, given.high))
        flags = f"--set search.{RATE}.low={low} --set search.{RATE}.high={high}"
        return f"{start}; its learning rates are {given.low:g} to {given.high:g}: try {flags}"
    return f"{start}; try --set {RATE}={given * factor:.3g}"


def _factor(method: str) -> float:
    """Return the ratio of this method's best learning rates to those of the other method."""
    return RATIO if method == "lora" else 1 / RATIO
