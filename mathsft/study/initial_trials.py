"""Returns the settings of the first trials: the experiment's own, those of the study file, and another study's best."""

from collections.abc import Iterable, Mapping

from mathsft.config.conditions import applicable
from mathsft.config.load import flatten
from mathsft.config.schema import Experiment, Scalar
from mathsft.config.study_schema import SearchRange, StudyConfig
from mathsft.records import Overrides, Promotion, Run
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
    own = {name: value for name in config.search if isinstance(value := values.get(name), bool | int | float | str)}
    return tuple(_distinct_within((applicable(own), *config.enqueue, *warm), config.search))


def best_settings(store: StudyStore, space: Mapping[str, SearchRange]) -> list[dict[str, Scalar]]:
    """Return another study's promoted settings, then those of its most accurate trials; all lie in this space."""
    promotion = store.promotion()
    trials = [trial for trial in store.runs("trial") if trial.state == "finished"]
    ranked = sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))
    best: list[Promotion | Run] = [*([promotion] if promotion else []), *ranked]
    shared = (applicable({name: value for name, value in one.overrides.items() if name in space}) for one in best)
    return _distinct_within(filter(None, shared), space)[:NUM_WARM]


def _distinct_within(candidates: Iterable[Overrides], space: Mapping[str, SearchRange]) -> list[dict[str, Scalar]]:
    """Return the candidates whose settings all lie in their searched ranges, without repetition."""
    distinct: list[dict[str, Scalar]] = []
    for candidate in candidates:
        is_within = all(space[name].holds(value) for name, value in candidate.items())
        if is_within and dict(candidate) not in distinct:
            distinct.append(dict(candidate))
    return distinct
