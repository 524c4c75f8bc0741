"""Writes the model card of a final run's checkpoint from the book alone, so that the folder says by itself what it is."""

from pathlib import Path

import yaml

from mathsft.data.examples import load_template
from mathsft.records import Checkpoint, Passport, Run
from mathsft.reporting import text
from mathsft.runs.retention import TEST_POOL
from mathsft.store.book import Book

SHOWN = ("model.path", "data.source", "prompt.template")
SHOWN_GROUPS = ("training.", "evaluation.")


def write_card(book: Book, run: Run, checkpoint: Checkpoint, study_dir: Path) -> Path:
    """Write README.md into the checkpoint's folder and return the folder, which transformers and vLLM load as it is."""
    passport = book.passport(run.name)
    settings = {**(passport.settings if passport else book.settings() or {}), **run.overrides}
    folder = study_dir / checkpoint.path
    parts = [
        _front_matter(),
        f"# {text.cell(str(settings.get('model.path', 'model')))}, fine-tuned on math",
        f"Step {checkpoint.step} of the run {run.name} of the study {text.cell(book.study)}, trained with "
        f"{text.settings(run.overrides)}.",
        "## Accuracy",
        _scores(book, run, checkpoint),
        f"The checkpoint was chosen on the pool {run.plan.pool}; nothing was ever chosen on {TEST_POOL}. A response counts "
        "where its format is right and its answer equals the problem's. The problems are those of the study's own data.",
        "## Prompt",
        _prompt(str(settings.get("prompt.template", ""))),
        "## Settings",
        text.table(("setting", "value"), _settings(settings), num_left=2),
        _provenance(passport, checkpoint),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return folder


def _front_matter() -> str:
    tags = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["math", "mathsft"]}
    return f"---\n{yaml.safe_dump(tags, sort_keys=False)}---"


def _scores(book: Book, run: Run, checkpoint: Checkpoint) -> str:
    rows = []
    for pool in (TEST_POOL, run.plan.pool):
        by_step = {score.step: score for score in book.scores(run.name, pool)}
        named = {"base model": by_step.get(0), "this model": by_step.get(checkpoint.step)}
        for name, score in named.items():
            if score is not None:
                counted = f"{score.counts['correct']:,} of {sum(score.counts.values()):,}"
                rows.append((name, text.cell(pool), counted, text.accuracy(score), text.percent(score.format_accuracy)))
    return text.table(("model", "pool", "correct", "accuracy (95 % interval)", "format accuracy"), rows, num_left=2)


def _prompt(template: str) -> str:
    """Return the template as an indented block, in which nothing is markup."""
    return "\n".join(f"    {line}" for line in load_template(template).splitlines())


def _settings(settings: dict[str, object]) -> list[tuple[str, str]]:
    shown = [name for name in sorted(settings) if name in SHOWN or name.startswith(SHOWN_GROUPS)]
    return [(text.cell(name), text.cell(str(settings[name]))) for name in shown]


def _provenance(passport: Passport | None, checkpoint: Checkpoint) -> str:
    facts = {"weights (BLAKE3)": checkpoint.fingerprint}
    if passport is not None:
        facts |= {
            "base model's weights (BLAKE3)": passport.base_fingerprint,
            "data": passport.data_hash,
            "seed": str(passport.seed),
            "device": passport.device,
            "mathsft's commit": passport.commit + (" and uncommitted changes" if passport.diff else ""),
            **passport.versions,
        }
    return "## Provenance\n\n" + text.table(("", ""), [(text.cell(k), text.cell(v)) for k, v in facts.items()], num_left=2)
