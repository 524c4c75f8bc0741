"""Loads the StudyConfig and the Experiment from their YAML files and from settings given by name on the command line.

Precedence: --set, then the file, then the schema's default. All mistakes are reported in one UserError, one line each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias, cast

from pydantic import BaseModel

from mathsft.config.check import SettingsT, as_yaml, check
from mathsft.config.conditions import applicable, inert_settings
from mathsft.config.document import read_document, read_value
from mathsft.config.files import find_yaml_file
from mathsft.config.names import unknown_name_message
from mathsft.config.schema import Experiment, Scalar, TrainingSettings
from mathsft.config.study_schema import Choices, StudyConfig
from mathsft.errors import UserError

Leaf: TypeAlias = Scalar | list[Scalar] | None
"""The value of one setting."""

PRECISION, AUTO = "training.precision", "auto"

_FREE = ("sampler.arguments.", "pruner.arguments.", "prompt.chat_arguments.")
"""Prefixes of names that Optuna or a chat template defines and the schema does not."""
_OBJECTIVE = ("evaluation.format_rule", "evaluation.num_samples")
"""Settings that define a trial's value. Values computed under different ones cannot be compared."""
_SHARED_BY_RUNS = ("task", "model.", "data.", "evaluation.precision", "evaluation.memory_share", *_OBJECTIVE)
"""Settings that all trials share: they are read once, for the study's pools and workers, or they define a trial's value."""
_NOT_IDENTITY = (
    "experiment",
    "num_trials",
    "max_hours",
    "storage",
    "horizon.",
    "final.",
    "evaluators",
    "limits.",
    "wandb.",
    "evaluation.load",
)
"""Settings that may change when a study is continued: they do not affect the results of its trials."""


@dataclass(frozen=True)
class Loaded:
    """A study and its experiment with all values resolved; their names are the stems of their files."""

    study_name: str
    study_path: Path
    """The study's file: a relative path if it was found by name under the current directory, else as given or absolute."""
    study: StudyConfig
    experiment_name: str
    experiment: Experiment
    overrides: dict[str, Scalar]
    """The experiment's settings that --set changed. `experiment` includes them."""
    sources: dict[str, str]
    """Setting -> where its value was given ("studies/quickstart.yaml:12", "--set"). It has no settings at their default."""


def load_settings(study: str, experiment: str | None, assignments: Sequence[str]) -> Loaded:
    """Load a study (a name or a file) with its own or the given experiment, and apply "dotted.name=value" assignments.

    Raises UserError with one line for each problem in a file or an assignment.
    """
    of_experiment, of_study = _parse(assignments)
    study_path = find_yaml_file("study", study, None, "--study")
    study_tree, study_places = read_document(study_path)
    config = apply_overrides(check(StudyConfig, study_tree, study_places), of_study, "--set")
    study_places |= dict.fromkeys(of_study, "--set")
    origin = "--experiment" if experiment else f"{study_places['experiment']}: experiment"
    experiment_path = find_yaml_file("experiment", experiment or config.experiment, study_path, origin)
    experiment_tree, experiment_places = read_document(experiment_path)
    resolved = apply_overrides(check(Experiment, experiment_tree, experiment_places), of_experiment, "--set")
    places = {**experiment_places, **study_places, **dict.fromkeys(of_experiment, "--set")}
    _check_search(config, resolved, places)
    _check_conditions(config, resolved, places)

    if experiment:
        config = apply_overrides(config, {"experiment": experiment}, "--experiment")
        places["experiment"] = "--experiment"
    values = flatten(resolved)
    overrides = {name: cast(Scalar, values[name]) for name in of_experiment}
    sources = {name: places[name] for name in [*values, *flatten(config)] if name in places}
    return Loaded(study_path.stem, study_path, config, experiment_path.stem, resolved, overrides, sources)


def load_experiment(name: str, assignments: Sequence[str]) -> Experiment:
    """Load an experiment (a name or a file) without a study, and apply "dotted.name=value" assignments; raises UserError."""
    of_experiment, of_study = _parse(assignments)
    if of_study:
        raise UserError(f"--set: {next(iter(of_study))}: a setting of a study, and this command reads only an experiment")
    tree, places = read_document(find_yaml_file("experiment", name, None, "EXPERIMENT"))
    return apply_overrides(check(Experiment, tree, places), of_experiment, "--set")


def apply_overrides(settings: SettingsT, values: Mapping[str, Leaf], origin: str = "") -> SettingsT:
    """Return settings with some values replaced by dotted name.

    Raises UserError for each unknown name and bad value, in one line that begins with `origin`.
    """
    known = flatten(settings)
    unknown = [_complain(name, known) for name in values if name not in known and not name.startswith(_FREE)]
    if unknown:
        raise UserError("\n".join(f"{origin}: {line}" if origin else line for line in unknown))
    tree = settings.model_dump()
    for name, value in values.items():
        _assign(tree, name, tuple(value) if isinstance(value, list) else value)
    return check(type(settings), tree, {"": origin})


def flatten(settings: BaseModel) -> dict[str, Leaf]:
    """Return all settings by dotted name, lists as lists."""
    return dict(_leaves(settings.model_dump(), ""))


def identity(loaded: Loaded) -> dict[str, Leaf]:
    """Return the settings that must not change when a study is continued, by dotted name.

    They exclude the budget, what follows the search, logging and, since every trial overrides them, the searched settings.
    """
    values = {**flatten(loaded.experiment), **flatten(loaded.study)}
    searched = loaded.study.search
    return {name: value for name, value in values.items() if name not in searched and not name.startswith(_NOT_IDENTITY)}


def differences(old: Mapping[str, Leaf], new: Mapping[str, Leaf]) -> list[str]:
    """Return a line "training.learning_rate: 0.001 -> 0.002" for every setting that differs."""
    return [
        f"{name}: {as_yaml(old[name]) if name in old else 'not set'} -> {as_yaml(new[name]) if name in new else 'not set'}"
        for name in sorted({*old, *new})
        if name not in old or name not in new or old[name] != new[name]
    ]


def _leaves(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, Leaf]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", cast(Leaf, list(value) if isinstance(value, tuple) else value)


def _parse(assignments: Sequence[str]) -> tuple[dict[str, Scalar], dict[str, Leaf]]:
    """Split assignments into settings of the experiment and settings of the study, by their top-level name."""
    of_experiment: dict[str, Scalar] = {}
    of_study: dict[str, Leaf] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not text:
            raise UserError(f"--set: {assignment}: has no value; write NAME=VALUE, as in training.batch_size=32")
        value = read_value(text, f"--set: {name}")
        section = name.partition(".")[0]
        if section in StudyConfig.model_fields:
            of_study[name] = value
        elif section not in Experiment.model_fields:
            raise UserError(f"--set: {unknown_name_message(name)}")
        elif isinstance(value, bool | int | float | str):
            of_experiment[name] = value
        else:
            raise UserError(f"--set: {name}: cannot be set to {as_yaml(value)} by name; write it in the experiment's file")
    return of_experiment, of_study


def _complain(name: str, known: Mapping[str, Leaf]) -> str:
    if f"{name}." in _FREE:
        return f"{name}: is a section; set one of its arguments, {name}.NAME"
    inside = [setting for setting in known if setting.startswith(f"{name}.")]
    return f"{name}: is a section; set one of {', '.join(inside)}" if inside else unknown_name_message(name)


def _assign(tree: dict[str, object], name: str, value: object) -> None:
    """Set a value deep in a tree. Keys of the tree may contain dots, as those of searched settings do."""
    for key, inner in tree.items():
        if isinstance(inner, dict) and name.startswith(f"{key}."):
            return _assign(inner, name.removeprefix(f"{key}."), value)
    tree[name] = value
    return None


def _check_search(config: StudyConfig, experiment: Experiment, places: Mapping[str, str]) -> None:
    """Raise UserError unless every searched setting exists, may differ between trials and accepts the ends of its range."""
    ends = {
        name: bounds.choices if isinstance(bounds, Choices) else (bounds.low, bounds.high)
        for name, bounds in config.search.items()
    }
    problems = [
        f"{places[f'search.{name}']}: search: {problem}"
        for name, values in ends.items()
        if (problem := _search_problem(name, values, experiment))
    ]
    if not problems and (problem := _joint_problem(ends, experiment)):
        problems = [f"{places['search']}: search: {problem}"]
    if problems:
        raise UserError("\n".join(problems))


def _check_conditions(config: StudyConfig, experiment: Experiment, places: Mapping[str, str]) -> None:
    """Raise UserError if a setting can have no effect, since another setting has a value with which it is not used."""
    required = {"learning_rate": 1.0, "batch_size": 1}
    defaults = flatten(TrainingSettings.model_validate(required))
    values = {name: value for name, value in flatten(experiment).items() if name.startswith("training.")}
    named_defaults = {f"training.{name}": value for name, value in defaults.items()}
    problems = [
        f"{places[name]}: {line}" if name in places else line
        for name, line in inert_settings(values, named_defaults, config.search, config.enqueue)
    ]
    if problems:
        raise UserError("\n".join(problems))


def _joint_problem(ends: Mapping[str, Sequence[Scalar]], experiment: Experiment) -> str | None:
    """Return why the experiment refuses values of the searched settings together: a trial with them could not be made.

    Tried are all lowest and all highest numbers, with each combination of texts.
    """
    texts = {name: values for name, values in ends.items() if any(isinstance(value, str) for value in values)}
    numbers = {name: cast(Sequence[float], values) for name, values in ends.items() if name not in texts}
    for extreme in (min, max):
        for chosen in product(*texts.values()):
            values = {name: extreme(given) for name, given in numbers.items()} | dict(zip(texts, chosen, strict=True))
            try:
                apply_overrides(experiment, applicable(values))
            except UserError as error:
                return f"its values do not fit together: {error}"
    return None


def _search_problem(name: str, values: Sequence[Scalar], experiment: Experiment) -> str | None:
    if name.startswith(_SHARED_BY_RUNS):
        return f"{name}: cannot be searched: all trials share its value; set it in the experiment"
    if name == PRECISION and AUTO in values:
        return f"{name}: {AUTO} cannot be searched: it stands for bf16 or fp32; search these"
    for value in values:
        try:
            apply_overrides(experiment, {name: value})
        except UserError as error:
            return str(error)
    return None
