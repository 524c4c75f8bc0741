"""Says which kinds of weights the runs of a study train, and which of them needs the most memory."""

from collections.abc import Mapping
from types import MappingProxyType

from mathsft.config.schema import Experiment, LoraSettings, Scalar, TrainingSettings
from mathsft.config.study_schema import Choices, SearchRange

NOTHING_SEARCHED: Mapping[str, SearchRange] = MappingProxyType({})
METHOD, _LORA = "training.method", "training.lora."


def methods(training: TrainingSettings, search: Mapping[str, SearchRange]) -> tuple[str, ...]:
    """Return each training.method of the study's runs, "full" first."""
    searched = search.get(METHOD)
    possible = map(str, searched.choices) if isinstance(searched, Choices) else (training.method,)
    return tuple(sorted(possible))


def heaviest(training: TrainingSettings, search: Mapping[str, SearchRange]) -> TrainingSettings:
    """Return the settings of the runs that need the most memory: full fine-tuning, else the largest adapter."""
    method = methods(training, search)[0]
    largest = {name.removeprefix(_LORA): _largest(given) for name, given in search.items() if name.startswith(_LORA)}
    if "targets" in largest:
        largest["targets"] = LoraSettings().targets  # all linear layers
    lora = training.lora.model_copy(update=largest)
    return training.model_copy(update={"method": method, "lora": lora})


def with_heaviest(experiment: Experiment, search: Mapping[str, SearchRange]) -> Experiment:
    """Return the experiment with the training settings of the runs that need the most memory."""
    return experiment.model_copy(update={"training": heaviest(experiment.training, search)})


def _largest(given: SearchRange) -> Scalar:
    if isinstance(given, Choices):
        return max(given.choices)
    return given.high
