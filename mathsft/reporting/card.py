"""Writes the model card of a final run's checkpoint: its scores, its use, its settings and its provenance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mathsft.data.examples import PLACEHOLDER, load_template
from mathsft.data.models import HUB_ID
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Provenance, Run
from mathsft.reporting import markdown
from mathsft.reporting.table import Table, accuracy, correct, percent
from mathsft.runs.pool_names import TEST_POOL
from mathsft.store.study_store import StudyStore

SHOWN = ("model.path", "data.source", "data.test_source", "prompt.template")
SHOWN_GROUPS = ("training.", "evaluation.")
EXAMPLE = "What is 17 + 25?"

SNIPPET = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = {prompt!r}
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
output = model.generate(
    **inputs, do_sample=False, max_new_tokens={max_tokens}, stop_strings={stop!r}, tokenizer=tokenizer
)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def write_card(store: StudyStore, run: Run, checkpoint: Checkpoint, layout: StudyLayout) -> Path:
    """Write README.md into the checkpoint's folder and return the folder, which transformers and vLLM can load."""
    provenance = store.provenance(run.name)
    settings = {**(provenance.settings if provenance else store.settings() or {}), **run.overrides}
    base = _named(settings.get("model.path", "unknown"))
    folder = layout / checkpoint.path
    parts = [
        _front_matter(settings),
        f"# {markdown.cell(base)}, fine-tuned on math",
        f"This is step {checkpoint.step} of the run {run.name} of the study {markdown.cell(store.study)}. It was trained "
        "with "
        f"{markdown.settings(run.overrides)}. The base model is {markdown.cell(base)}.",
        "## Accuracy",
        _scores(store, run, checkpoint),
        _pools(store, run, settings),
        "## Usage",
        f"```python\n{_snippet(settings)}```",
        "## Prompt",
        _prompt(str(settings.get("prompt.template", ""))),
        "## Settings",
        Table.of(("setting", "value"), _settings(settings)).markdown(),
        _provenance(provenance, checkpoint),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return folder


def _front_matter(settings: Mapping[str, Any]) -> str:
    tags: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["math", "mathsft"]}
    path = str(settings.get("model.path", ""))
    if HUB_ID.fullmatch(path) and not Path(path).is_dir():
        tags["base_model"] = path
    return f"---\n{yaml.safe_dump(tags, sort_keys=False)}---"


def _scores(store: StudyStore, run: Run, checkpoint: Checkpoint) -> str:
    rows = []
    for pool in (TEST_POOL, run.plan.pool):
        by_step = {score.step: score for score in store.scores(run.name, pool)}
        for name, score in (("base model", by_step.get(0)), ("this model", by_step.get(checkpoint.step))):
            if score is not None:
                rows.append((name, pool, correct(score), accuracy(score), percent(score.format_accuracy)))
    return Table.of(("model", "pool", "correct", "accuracy (95 % interval)", "format accuracy"), rows).markdown()


def _pools(store: StudyStore, run: Run, settings: Mapping[str, Any]) -> str:
    """Return the source of the problems, the number of problems in each pool, and the purpose of the pools."""
    source, test_source = (_named(settings.get(name)) for name in ("data.source", "data.test_source"))
    num_tested, num_validated = (
        max((score.num_problems for score in store.scores(run.name, pool)), default=0) for pool in (TEST_POOL, run.plan.pool)
    )
    sources = f"All problems are from {source}; no problem is in two pools."
    if test_source:
        sources = f"The {TEST_POOL} problems are from {test_source}, all others from {source}."
    return (
        f"{markdown.cell(sources)} The checkpoint was selected on the pool {run.plan.pool} ({num_validated:,} problems). "
        f"Nothing was selected on the pool {TEST_POOL} ({num_tested:,} problems). A response is correct if its format is "
        "right and its answer equals the problem's gold answer."
    )


def _snippet(settings: Mapping[str, Any]) -> str:
    """Return Python code that prompts the model in this folder in the same way as training and scoring."""
    prompt = load_template(str(settings.get("prompt.template", ""))).replace(PLACEHOLDER, EXAMPLE)
    stop = list(settings.get("evaluation.stop", ["</answer>"]))
    return SNIPPET.format(prompt=prompt, max_tokens=settings.get("evaluation.max_tokens", 1024), stop=stop)


def _prompt(template: str) -> str:
    """Return the template as an indented block, in which Markdown has no markup."""
    return "\n".join(f"    {line}" for line in load_template(template).splitlines())


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [name for name in sorted(settings) if name in SHOWN or name.startswith(SHOWN_GROUPS)]
    return [(name, _named(settings[name]) if name in SHOWN else str(settings[name])) for name in shown]


def _named(value: Any) -> str:
    """Return a setting as text; an absolute path loses its folders, which the card must not show."""
    text = "" if value is None else str(value)
    return Path(text).name if Path(text).is_absolute() or text.startswith("~") else text


def _provenance(provenance: Provenance | None, checkpoint: Checkpoint) -> str:
    facts = {"weights (BLAKE3)": checkpoint.fingerprint}
    if provenance is not None:
        facts |= {
            "base model's weights (BLAKE3)": provenance.base_fingerprint,
            "data": provenance.data_hash,
            "seed": str(provenance.seed),
            "device": provenance.device,
            "mathsft's commit": provenance.commit + (" and uncommitted changes" if provenance.diff else ""),
            **provenance.versions,
        }
    return "## Provenance\n\n" + Table.of(("", ""), facts.items()).markdown()
