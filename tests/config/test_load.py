"""Loading: precedence, where files are found, how text is read, overrides and identity."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.config.load import apply_overrides, differences, flatten, identity, load_settings
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig
from mathsft.errors import UserError
from tests.build import make_experiment

SHIPPED = (
    "published-recipe",
    "quickstart",
    "quickstart-lora",
    "qwen2.5-math-1.5b",
    "qwen2.5-math-1.5b-lora",
    "smollm2-135m-gsm8k",
)
MINIMAL = make_experiment()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies_load_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_settings(name, None, [])
    assert (loaded.study_name, loaded.experiment_name) == (name, "quickstart" if name == "quickstart-lora" else name)
    assert loaded.study_path == Path(__file__).parents[2] / "studies" / f"{name}.yaml"
    assert {"training.learning_rate", "training.batch_size"} <= set(loaded.study.search)
    assert ("training.lora.rank" in loaded.study.search) == name.endswith("-lora")
    assert loaded.study.final.eval_points[0] == 0  # every final curve starts at the baseline
    assert loaded.overrides == {}


def test_set_beats_the_file_and_the_file_beats_the_default(write: Callable[..., Path]) -> None:
    write()
    loaded = load_settings("mine", None, ["training.learning_rate=1e-5", "evaluation.max_tokens=7", "num_trials=3"])
    assert loaded.experiment.training.learning_rate == 1e-5
    assert loaded.experiment.training.batch_size == 32
    assert loaded.experiment.training.precision == "auto"
    assert loaded.study.num_trials == 3
    assert loaded.study_path == Path("studies/mine.yaml")
    assert loaded.overrides == {"training.learning_rate": 1e-5, "evaluation.max_tokens": 7}
    assert loaded.sources["training.learning_rate"] == "--set"
    assert loaded.sources["training.batch_size"] == "experiments/mine.yaml:6"
    assert loaded.sources["num_trials"] == "--set"
    assert "training.precision" not in loaded.sources


def test_set_reaches_ranges_arguments_and_lists_of_a_study(write: Callable[..., Path]) -> None:
    write()
    assignments = [
        "search.training.learning_rate.high=0.1",
        "search.training.batch_size.choices=[4]",
        "trial.eval_points=[1]",
        "pruner.name=PercentilePruner",
        "pruner.arguments.percentile=50",
    ]
    study = load_settings("mine", None, assignments).study
    values = flatten(study)
    assert values["search.training.learning_rate.high"] == 0.1
    assert values["search.training.batch_size.choices"] == [4]
    assert study.trial.eval_points == (1,)
    assert study.pruner.arguments == {"percentile": 50}


def test_experiment_argument_beats_the_study_file(write: Callable[..., Path]) -> None:
    folder = write()
    other = folder / "anywhere" / "other.yaml"
    other.parent.mkdir()
    other.write_text((folder / "experiments" / "mine.yaml").read_text().replace("1e-3", "2"))
    loaded = load_settings(str(folder / "studies" / "mine.yaml"), "anywhere/other.yaml", [])
    assert (loaded.study_name, loaded.experiment_name) == ("mine", "other")
    assert loaded.experiment.training.learning_rate == 2
    assert loaded.study.experiment == "anywhere/other.yaml"


def test_current_folder_beats_the_project_and_a_study_finds_its_neighbour(
    write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write()
    shutil.copy(folder / "experiments" / "mine.yaml", folder / "experiments" / "quickstart.yaml")
    assert load_settings("mine", "quickstart", []).experiment.prompt.template == "r1_zero"
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_settings("quickstart", None, []).experiment.prompt.template == "short"
    assert load_settings(str(folder / "studies" / "mine.yaml"), None, []).experiment_name == "mine"


def test_identity_is_blind_to_budget_final_run_logging_and_the_files_name(write: Callable[..., Path]) -> None:
    folder = write()
    plain = identity(load_settings("mine", None, []))
    (folder / "copy.yaml").write_text((folder / "experiments" / "mine.yaml").read_text())
    same = ["num_trials=99", "final.num_examples=5", "final.eval_points=[1]", "wandb.mode=disabled", "wandb.project=x"]
    searched = ["training.learning_rate=1"]
    assert identity(load_settings("mine", "copy.yaml", same + searched)) == plain
    assert json.loads(json.dumps(plain)) == plain
    for assignment in ("seed=1", "trial.num_examples=65", "evaluation.top_p=0.5", "sampler.name=RandomSampler"):
        assert identity(load_settings("mine", None, [assignment])) != plain, assignment


def test_differences_name_what_differs(write: Callable[..., Path]) -> None:
    write()
    old = identity(load_settings("mine", None, []))
    new = identity(
        load_settings("mine", None, ["seed=4", "search.training.learning_rate.low=2e-5", "sampler.arguments.a=x"])
    )
    assert differences(old, old) == []
    assert differences(old, new) == [
        "sampler.arguments.a: not set -> 'x'",
        "search.training.learning_rate.low: 1e-05 -> 2e-05",
        "seed: 0 -> 4",
    ]


@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(
    learning_rate=st.floats(min_value=1e-30, max_value=1e30),
    batch_size=st.integers(min_value=1),
    precision=st.sampled_from(["auto", "bf16", "fp32"]),
    source=st.text(),
    top_p=st.floats(min_value=0.001, max_value=1),
)
def test_flattened_settings_applied_as_overrides_give_the_settings_back(**values: object) -> None:
    names = ("training.learning_rate", "training.batch_size", "training.precision", "data.source", "evaluation.top_p")
    changed = apply_overrides(MINIMAL, {name: values[name.rpartition(".")[2]] for name in names})  # type: ignore[misc]
    overrides = {name: value for name, value in flatten(changed).items() if isinstance(value, bool | int | float | str)}
    assert apply_overrides(MINIMAL, overrides) == changed
    assert apply_overrides(MINIMAL, json.loads(json.dumps(overrides))) == changed  # as the database keeps them


def test_apply_overrides_refuses_unknown_names_and_bad_values() -> None:
    with pytest.raises(UserError, match=r"^training\.lerning_rate: unknown; did you mean training\.learning_rate\?$"):
        apply_overrides(MINIMAL, {"training.lerning_rate": 1.0})
    with pytest.raises(UserError, match=r"^training\.batch_size: must be at least 1, got 0$"):
        apply_overrides(MINIMAL, {"training.batch_size": 0})
    with pytest.raises(UserError, match=r"^training\.batch_size: expected a whole number, got true$"):
        apply_overrides(MINIMAL, {"training.batch_size": True})
    with pytest.raises(UserError, match=r"^seed: unknown"):  # the study's settings are not an experiment's
        apply_overrides(MINIMAL, {"seed": 1})


def test_top_level_names_are_disjoint() -> None:
    assert not set(Experiment.model_fields) & set(StudyConfig.model_fields)


def test_numbers_and_words_are_read_as_they_are_meant(write: Callable[..., Path]) -> None:
    write()
    for text in ("1e-5", "1E-5", ".00001", "0.00001", "1.e-5"):
        assert load_settings("mine", None, [f"training.learning_rate={text}"]).experiment.training.learning_rate == 1e-5
    for text in ("off", "no", "2026-11-22", "1:30", "a/b#c.jsonl"):  # a bool, a date and a number in YAML 1.1
        assert load_settings("mine", None, [f"data.source={text}"]).experiment.data.source == text


def test_arguments_of_a_chat_template_are_set_by_name() -> None:
    given = ["prompt.template=chat", "prompt.answer=boxed", "prompt.chat_arguments.enable_thinking=false"]
    loaded = load_settings("quickstart", None, given)
    assert loaded.experiment.prompt.chat_arguments == {"enable_thinking": False}
    assert loaded.overrides["prompt.chat_arguments.enable_thinking"] is False
    assert apply_overrides(loaded.experiment, loaded.overrides) == loaded.experiment
