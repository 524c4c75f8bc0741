"""The rows that the command line prints: every setting, and where each value came from."""

from mathsft.config.describe import ResolvedSetting, SettingRow, resolved_rows, schema_rows
from mathsft.config.load import flatten, load_settings


def test_schema_has_every_setting_with_type_limits_default_and_meaning() -> None:
    rows = {row.name: row for row in schema_rows()}
    assert rows["training.batch_size"] == SettingRow(
        "training.batch_size", "whole number >= 1", "required", "Sequences per optimizer step."
    )
    assert rows["training.beta1"].type == "number >= 0 and < 1"
    assert rows["training.precision"].type == "auto or bf16 or fp32"
    assert rows["data.pools.train"].type == "whole number >= 1 or null"
    assert rows["data.pools.validation"].default == "1000"
    assert rows["sampler.name"].default == "TPESampler"  # set by the section's default, not by the section's class
    assert rows["trial.eval_points"].type == "list of: number >= 0 and <= 1"
    assert rows["search.SETTING.type"].type == "float or int or categorical"
    assert len(rows) == len(schema_rows())


def test_every_setting_of_a_study_is_in_the_schema_and_in_the_resolved_rows() -> None:
    loaded = load_settings("quickstart", None, ["training.batch_size=8"])
    rows = {row.name: row for row in resolved_rows(loaded)}
    values = {**flatten(loaded.experiment), **flatten(loaded.study)}
    assert set(rows) == set(values)
    in_schema = {row.name for row in schema_rows()}
    assert {name for name in values if not name.startswith(("search.", "pruner.arguments."))} <= in_schema
    assert rows["training.batch_size"] == ResolvedSetting("training.batch_size", "8", "--set")
    assert rows["training.beta1"] == ResolvedSetting("training.beta1", "0.9", "default")
    assert rows["training.precision"].source.endswith("experiments/quickstart.yaml:20")
