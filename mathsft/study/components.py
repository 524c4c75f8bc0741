"""Builds Optuna's sampler, pruner and search space from the study file, and rehearses them before a study begins."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mathsft.config.conditions import applies, condition_of, conditions_first
from mathsft.config.study_schema import Choices, Component, FloatRange, IntRange, SearchRange, StudyConfig
from mathsft.errors import UserError
from mathsft.seeds import derive_seed
from mathsft.study.parameters import short_names
from mathsft.study.pruners import PredictedEndPruner

REFUSED = {
    "CmaEsSampler": "it unpickles what it has stored in the database, which can run code; choose another one",
    "GridSampler": "the grid follows from the choices in `search`; choose BruteForceSampler",
    "PartialFixedSampler": "it needs another sampler; to try given settings, list them in `enqueue`",
}
OWN_PRUNER = "PredictedEndPruner"
SEQUENCE_SAMPLERS = ("QMCSampler",)
"""Samplers whose trials are elements of one sequence; they need the same seed for every trial."""
NUM_REHEARSED = 12
"""Number of rehearsed trials. By Optuna's defaults every sampler begins with fewer random trials than this."""


def make_sampler(config: StudyConfig, number: int) -> optuna.samplers.BaseSampler:
    """Make the sampler for one trial. A seed common to all trials would make a resumed study repeat its random numbers."""
    labels = () if config.sampler.name in SEQUENCE_SAMPLERS else (number,)
    seed = derive_seed(config.seed, "sampler", *labels)
    sampler: optuna.samplers.BaseSampler = make_component(optuna.samplers, "sampler", config.sampler, seed=seed)
    return sampler


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Make the pruner: one of Optuna's, or this project's own, which also needs the searched ranges."""
    pruner: optuna.pruners.BasePruner
    if config.pruner.name == OWN_PRUNER:
        pruner = _with_arguments(
            partial(PredictedEndPruner, config.search), "pruner", config.pruner, config.pruner.arguments
        )
    else:
        pruner = make_component(optuna.pruners, "pruner", config.pruner)
    return pruner


def make_space(config: StudyConfig) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the searched settings by name."""
    return {name: distribution(given) for name, given in config.search.items()}


def distribution(given: SearchRange) -> BaseDistribution:
    """Return Optuna's distribution for a searched range."""
    if isinstance(given, Choices):
        return CategoricalDistribution(given.choices)
    if isinstance(given, FloatRange):
        return FloatDistribution(given.low, given.high, log=given.log)
    return IntDistribution(given.low, given.high, log=given.log)


def suggest(trial: optuna.Trial, space: Mapping[str, BaseDistribution], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the trial's values of the searched settings that apply to it; those that it lacks are drawn.

    `names` has the parameter of each setting.
    """
    values: dict[str, Any] = {}
    for name, given in conditions_first(space).items():
        if applies(name, values):
            values[name] = trial._suggest(names[name], given)
    return values


def is_complete(values: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> bool:
    """Return whether a trial has a value of every searched setting that applies to it."""
    return all(name in values or not applies(name, values) for name in space)


def num_settings(space: Mapping[str, SearchRange]) -> float:
    """Return how many settings the space holds; infinity if a range is continuous."""
    needed = {condition[0] for name in space if (condition := condition_of(name))}
    owners = {name: given.choices for name, given in space.items() if name in needed and isinstance(given, Choices)}
    total = 0.0
    for values in product(*owners.values()):
        chosen = dict(zip(owners, values, strict=True))
        total += math.prod(
            _num_values(given) for name, given in space.items() if name not in owners and applies(name, chosen)
        )
    return total


def rehearse(config: StudyConfig) -> None:
    """Ask the sampler for trials and the pruner for decisions, in memory; raise UserError if one of them fails.

    Some of Optuna's classes reject a study only after their first random trials.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(config, 0), pruner=make_pruner(config))
    space = make_space(config)
    for number in range(int(min(config.num_trials, NUM_REHEARSED, num_settings(config.search)))):
        study.sampler = make_sampler(config, number)
        trial = explained(study.ask, "sampler", config.sampler)
        explained(partial(suggest, trial, space, short_names(space)), "sampler", config.sampler)
        for index, point in enumerate(config.trial.eval_points):
            trial.report(point / (number + 1), index)
            explained(trial.should_prune, "pruner", config.pruner)
        tell(study, trial.number, 1 / (number + 1), optuna.trial.TrialState.COMPLETE)


def explained(action: Any, kind: str, component: Component) -> Any:
    """Return the action's result; raise UserError if Optuna's class raises an exception in it."""
    try:
        return action()
    except optuna.exceptions.StorageInternalError:
        raise  # a database error
    except Exception as error:  # the study file chooses the class, and any exception is possible
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{kind}.name: {component.name} cannot work on this study: {reason}; choose another one") from error


def tell(study: optuna.Study, number: int, value: float | None, state: optuna.trial.TrialState) -> None:
    """Tell Optuna how a trial ended, also when the sampler then stops the study, as BruteForceSampler does at its end."""
    try:
        study.tell(number, value, state=state)
    except RuntimeError as error:
        # Study.stop is allowed only inside `optimize`. Optuna has recorded the trial's end before: optuna/study/_tell.py.
        if "Study.stop" not in str(error):
            raise


def _num_values(given: SearchRange) -> float:
    if isinstance(given, Choices):
        return len(given.choices)
    return given.high - given.low + 1 if isinstance(given, IntRange) else math.inf


def make_component(module: Any, kind: str, component: Component, **arguments: Any) -> Any:
    """Build one of Optuna's classes by name; raise UserError for an unknown name or argument."""
    available = [name for name in module.__all__ if name.endswith(kind.capitalize()) and not name.startswith("Base")]
    if component.name in REFUSED:
        raise UserError(f"{kind}.name: {component.name} is refused: {REFUSED[component.name]}")
    if component.name not in available:
        choices = [*available, OWN_PRUNER] if kind == "pruner" else available
        raise UserError(f"{kind}.name: {component.name!r} is not in Optuna; choose one of {', '.join(choices)}")
    given = {name: _built(module, kind, name, value, available) for name, value in component.arguments.items()}
    return _with_arguments(partial(getattr(module, component.name), **arguments), kind, component, given)


def _with_arguments(make: Callable[..., Any], kind: str, component: Component, given: Mapping[str, Any]) -> Any:
    try:
        return make(**given)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{kind}.arguments: {component.name} does not take {dict(component.arguments)}: {error}") from error


def _built(module: Any, kind: str, name: str, value: Any, available: Sequence[str]) -> Any:
    """Return an argument's value; a nested sampler or pruner (wrapped_pruner) is built from its name."""
    if not name.endswith(f"_{kind}") or not isinstance(value, str):
        return value
    if value not in available:
        raise UserError(f"{kind}.arguments: {name}: {value!r} is not in Optuna; choose one of {', '.join(available)}")
    return make_component(module, kind, Component(name=value))
