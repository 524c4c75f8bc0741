"""Every mistake in a file or an assignment ends in exactly one clear line that says where it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mathsft.config.load import load_settings
from mathsft.errors import UserError

CHECKOUT = Path(__file__).parents[2]
SHIPPED = {path.stem for path in (CHECKOUT / "studies").glob("*.yaml")}
SHIPPED_EXPERIMENTS = {path.stem for path in (CHECKOUT / "experiments").glob("*.yaml")}
MISTAKES = {
    "unknown key": (
        "  learning_rate:",
        "  lerning_rate: 1\n  learning_rate:",
        "experiments/mine.yaml:5: training.lerning_rate: unknown; did you mean training.learning_rate?",
    ),
    "unknown section": (
        "data:",
        "dta: {}\ndata:",
        "experiments/mine.yaml:2: dta: unknown; did you mean data?",
    ),
    "unknown key without a likeness": (
        "  source:",
        "  xyzzy: 1\n  source:",
        "experiments/mine.yaml:3: data.xyzzy: unknown; known are data.source, data.test_source, "
        "data.columns, data.pools, data.unreadable, data.contradictions",
    ),
    "study's key in an experiment": (
        "model:",
        "num_trials: 3\nmodel:",
        "experiments/mine.yaml:1: num_trials: unknown in an experiment; it belongs in the study's file",
    ),
    "experiment's key in a study": (
        "experiment: mine",
        "experiment: mine\ntraining: {}",
        "studies/mine.yaml:2: training: unknown in a study; it belongs in the experiment's file",
    ),
    "unknown key of a range": (
        "log: true",
        "logg: true",
        "studies/mine.yaml:3: search.training.learning_rate.logg: unknown; did you mean search.training.learning_rate.log?",
    ),
    "text for a number": (
        "1e-3",
        "abc",
        "experiments/mine.yaml:5: training.learning_rate: expected a number, got 'abc'",
    ),
    "quoted number": (
        "1e-3",
        "'1e-3'",
        "experiments/mine.yaml:5: training.learning_rate: expected a number, got '1e-3'",
    ),
    "bool for a whole number": (
        "batch_size: 32",
        "batch_size: true",
        "experiments/mine.yaml:6: training.batch_size: expected a whole number, got true",
    ),
    "float for a whole number": (
        "batch_size: 32",
        "batch_size: 32.0",
        "experiments/mine.yaml:6: training.batch_size: expected a whole number, got 32.0",
    ),
    "octal": (
        "batch_size: 32",
        "batch_size: 010",
        "experiments/mine.yaml:6: training.batch_size: expected a whole number, got '010'",
    ),
    "null": (
        "batch_size: 32",
        "batch_size:",
        "experiments/mine.yaml:6: training.batch_size: expected a whole number, got null",
    ),
    "number for text": (
        "source: quickstart",
        "source: 5",
        "experiments/mine.yaml:3: data.source: expected text, got 5",
    ),
    "out of range": (
        "batch_size: 32",
        "batch_size: 0",
        "experiments/mine.yaml:6: training.batch_size: must be at least 1, got 0",
    ),
    "not finite": (
        "1e-3",
        ".nan",
        "experiments/mine.yaml:5: training.learning_rate: expected a finite number, got nan",
    ),
    "not a choice": (
        "batch_size: 32",
        "batch_size: 32\n  precision: fp16",
        "experiments/mine.yaml:7: training.precision: expected 'auto', 'bf16' or 'fp32', got 'fp16'",
    ),
    "missing key": (
        "  learning_rate: 1e-3\n",
        "",
        "experiments/mine.yaml:4: training.learning_rate: missing; it must be given",
    ),
    "missing section": (
        "data:\n  source: quickstart\n",
        "",
        "experiments/mine.yaml:1: data: missing; it must be given",
    ),
    "value for a section": (
        "data:\n  source: quickstart",
        "data: quickstart",
        "experiments/mine.yaml:2: data: expected a section of settings, got 'quickstart'",
    ),
    "value for a list": (
        "[0, 1]",
        "1",
        "studies/mine.yaml:8: final.eval_points: expected a list in [brackets], got 1",
    ),
    "list in disorder": (
        "[0.5, 1]",
        "[1, 0.5]",
        "studies/mine.yaml:5: trial: eval_points must ascend and end with 1, but are [1.0, 0.5]",
    ),
    "item out of range": (
        "[0, 1]",
        "[0, 2]",
        "studies/mine.yaml:8: final.eval_points.1: must be at most 1, got 2",
    ),
    "empty range": (
        "high: 1e-2",
        "high: 1e-6",
        "studies/mine.yaml:3: search.training.learning_rate: low must be below high, but 1e-05 >= 1e-06",
    ),
    "type of range missing": (
        "type: float, ",
        "",
        "studies/mine.yaml:3: search.training.learning_rate: type is missing; give type: float, int or categorical",
    ),
    "type of range unknown": (
        "type: float",
        "type: flaot",
        "studies/mine.yaml:3: search.training.learning_rate.type: expected 'float', 'int', 'categorical', got 'flaot'",
    ),
    "choice that is no value": (
        "[8, 16]",
        "[8, [16]]",
        "studies/mine.yaml:4: search.training.batch_size.choices.1: expected a number, text, true or false, got [16]",
    ),
    "no choices": (
        "[8, 16]",
        "[]",
        "studies/mine.yaml:4: search.training.batch_size.choices: must not be empty",
    ),
    "searched setting unknown": (
        "training.batch_size: {",
        "training.batchsize: {",
        "studies/mine.yaml:4: search: training.batchsize: unknown; did you mean training.batch_size?",
    ),
    "searched value out of range": (
        "[8, 16]",
        "[8, 0]",
        "studies/mine.yaml:4: search: training.batch_size: must be at least 1, got 0",
    ),
    "searched value of the wrong type": (
        "[8, 16]",
        "[8, x]",
        "studies/mine.yaml:4: search: training.batch_size: expected a whole number, got 'x'",
    ),
    "searched setting shared by all trials": (
        "training.batch_size: {",
        "model.path: {",
        "studies/mine.yaml:4: search: model.path: cannot be searched: all trials share its value; set it in the experiment",
    ),
    "searched values that do not fit together": (
        "training.batch_size: {type: categorical, choices: [8, 16]}",
        "training.schedule: {type: categorical, choices: [linear, wsd]}\n"
        "  training.warmup_fraction: {type: float, low: 0.0, high: 0.5}\n"
        "  training.decay_fraction: {type: categorical, choices: [0.8, 0.2]}",
        "studies/mine.yaml:2: search: its values do not fit together: training: warmup_fraction = 0.5 and decay_fraction = "
        "0.8 make more than the whole run with schedule = wsd; lower one of them",
    ),
    "settings that do not go together": (
        "final:",
        "horizon: {num_examples: 64}\nfinal:",
        "studies/mine.yaml:1: horizon.num_examples = 64 must be below trial.num_examples = 64: two lengths are compared",
    ),
    "duplicate key": (
        "  batch_size: 32",
        "  batch_size: 32\n  learning_rate: 1",
        "experiments/mine.yaml:7: learning_rate: given twice; keep one of them",
    ),
    "tab": (
        "  batch_size: 32",
        "\tbatch_size: 32",
        "experiments/mine.yaml:6: not valid YAML: found character '\\t' that cannot start any token",
    ),
    "unclosed bracket": (
        "[8, 16]}",
        "[8, 16}",
        "studies/mine.yaml:4: not valid YAML: expected ',' or ']', but got '}'",
    ),
    "foreign tag": (
        "source: quickstart",
        "source: !!python/name:os.system",
        "experiments/mine.yaml:3: the tag tag:yaml.org,2002:python/name:os.system has no meaning in settings",
    ),
    "control character": (
        "source: quickstart",
        "source: quick\u0000start",
        "experiments/mine.yaml:3: not valid YAML: the character 0x00",
    ),
    "anchor within itself": (
        "data:\n  source: quickstart",
        "data: &data\n  source: *data",
        "experiments/mine.yaml:2: nested more than 20 deep",
    ),
}
"""A mistake: the text of conftest's two files that is replaced, by what, and the line it is answered with."""


def complaint(*assignments: str, study: str = "mine", experiment: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(study, experiment, assignments)
    return str(caught.value)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_with_its_place(mistake: str, write: Callable[..., Path]) -> None:
    old, new, line = MISTAKES[mistake]
    write((old, new))
    assert complaint() == line


def test_two_mistakes_are_two_lines(write: Callable[..., Path]) -> None:
    write(("1e-3", "-1"), ("batch_size: 32", "batch_size: x"))
    assert complaint().splitlines() == [
        "experiments/mine.yaml:5: training.learning_rate: must be above 0, got -1",
        "experiments/mine.yaml:6: training.batch_size: expected a whole number, got 'x'",
    ]


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("trainning.learning_rate=1", "--set: trainning.learning_rate: unknown; did you mean training.learning_rate?"),
        ("learning_rate=1", "--set: learning_rate: unknown; did you mean training.learning_rate?"),
        ("num_trails=3", "--set: num_trails: unknown; did you mean num_trials?"),
        ("final.num_example=3", "--set: final.num_example: unknown; did you mean final.num_examples?"),
        ("data.pools.watch=9", "--set: data.pools.watch: unknown; it is called data.pools.validation now"),
        ("wandb.x=1", "--set: wandb.x: unknown; known are wandb.mode, wandb.project"),
        ("model=x", "--set: model: is a section; set one of model.path"),
        ("sampler.arguments=5", "--set: sampler.arguments: is a section; set one of its arguments, sampler.arguments.NAME"),
        ("num_trials", "--set: num_trials: has no value; write NAME=VALUE, as in training.batch_size=32"),
        ("num_trials=", "--set: num_trials=: has no value; write NAME=VALUE, as in training.batch_size=32"),
        ("num_trials=many", "--set: num_trials: expected a whole number, got 'many'"),
        ("training.learning_rate=-1", "--set: training.learning_rate: must be above 0, got -1"),
        ("data.source=[", "--set: data.source: [: not valid YAML: expected the node content, but found '<stream end>'"),
        ("training.beta1=[1]", "--set: training.beta1: cannot be set to [1] by name; write it in the experiment's file"),
        ("evaluation.stop=x", "--set: evaluation.stop: follows from prompt.answer now; remove it"),
        ("prompt.system=x", "--set: prompt: system: used in a chat only; set template to chat, or remove it"),
        (
            "prompt.template=boxed",
            "--set: prompt: template boxed asks for another format than answer = tags; set answer to boxed, or choose "
            "another template",
        ),
        ("prompt.message=So?", "--set: prompt: message contains {problem} 0 times; write it exactly once"),
        (
            "evaluation.num_samples=4",
            "--set: evaluation: num_samples = 4 at temperature = 0 gives the same response every time; set temperature "
            "above 0, or num_samples to 1",
        ),
        (
            "horizon.num_examples=64",
            "--set: horizon.num_examples = 64 must be below trial.num_examples = 64: two lengths are compared",
        ),
        (
            "search.training.batch_size.choices=[0]",
            "studies/mine.yaml:4: search: training.batch_size: must be at least 1, got 0",
        ),
    ],
)
def test_a_mistake_in_an_assignment_is_one_line(assignment: str, line: str, write: Callable[..., Path]) -> None:
    write()
    assert complaint(assignment) == line


def test_files_that_cannot_be_read(write: Callable[..., Path]) -> None:
    folder = write()
    known, known_experiments = (
        f"give a YAML file or one of {', '.join(sorted({'mine', *names}))}" for names in (SHIPPED, SHIPPED_EXPERIMENTS)
    )
    assert complaint(study="quikstart") == f"--study: no study named 'quikstart'; did you mean quickstart? {known}"
    assert complaint(study="x/mine.yaml") == f"--study: x/mine.yaml: no such file; {known}"
    (folder / "studies" / "mine").mkdir()  # as it is once the study has run
    for wanted in ("studies/mine", "studies/mine/"):
        what = f"--study: {wanted}: a folder, not a YAML file; did you mean studies/mine.yaml? {known}"
        assert complaint(study=wanted) == what
    assert complaint(experiment="nope") == f"--experiment: no experiment named 'nope'; {known_experiments}"
    write(("experiment: mine", "experiment: mien"))
    where = "studies/mine.yaml:1: experiment"
    assert complaint() == f"{where}: no experiment named 'mien'; did you mean mine? {known_experiments}"
    write()
    path = folder / "experiments" / "mine.yaml"
    path.write_bytes(path.read_bytes() + b"# caf\xe9\n")
    assert complaint() == "experiments/mine.yaml:7: not UTF-8 text (byte 0xe9); save the file as UTF-8"
    for text in ("", "- a\n", "word"):
        path.write_text(text)
        assert complaint() == "experiments/mine.yaml:1: must hold settings, one `key: value` a line"
