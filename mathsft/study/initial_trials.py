"""Returns the settings of the first trials: the experiment's own, those of the study file, and another study's best."""

from collections.abc import Iterable, Mapping

from mathsft.config.load import flatten
from mathsft.config.schema import Experiment, Scalar, SearchRange, StudyConfig
from mathsft.records import Overrides
from mathsft.store.study_store import StudyStore

NUM_WARM = 3
"""Number of another study's best settings that are tried."""


def initial_settings(
    config: StudyConfig, experiment: Experiment, warm: Iterable[Overrides]
) -> tuple[dict[str, Scalar], ...]:
    """Return the settings of the first trials, without repetition.

    Trial 0 has the experiment's own settings, so that the study can show whether tuning was worth it. Settings outside
    the searched ranges are left out, the experiment's own, too.
    """
    values = flatten(experiment)
    own = {name: value for name in config.search if isinstance(value := values[name], bool | int | float | str)}
    given: list[dict[str, Scalar]] = []
    for candidate in (own, *config.enqueue, *warm):
        if is_within(candidate, config.search) and dict(candidate) not in given:
            given.append(dict(candidate))
    return tuple(given)


def best_settings(store: StudyStore, space: Mapping[str, SearchRange]) -> list[dict[str, Scalar]]:
    """Return another study's promoted settings, then those of its most accurate trials; all lie in this space."""
    promotion = store.promotion()
    trials = [trial for trial in store.runs("trial") if trial.state == "finished"]
    ranked = sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))
    best: list[dict[str, Scalar]] = []
    for overrides in [*([promotion.overrides] if promotion else []), *(trial.overrides for trial in ranked)]:
        shared = {name: value for name, value in overrides.items() if name in space}
        if shared and is_within(shared, space) and shared not in best:
            best.append(shared)
    return best[:NUM_WARM]


def is_within(settings: Overrides, space: Mapping[str, SearchRange]) -> bool:
    """Return whether all settings lie in their searched ranges."""
    return all(space[name].holds(value) for name, value in settings.items())
