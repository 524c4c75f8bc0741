import shutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from mathsft.layout import StudyLayout
from mathsft.prompts.renderer import make_renderer
from mathsft.records import Problem, Provenance
from mathsft.reporting.card import EXAMPLE, _front_matter, _prompt_settings, _snippet, write_card
from mathsft.store.study_store import StudyStore
from mathsft.tasks.quickstart.generator import base_model_folder
from tests.build import make_checkpoint, make_final, make_plan, make_score
from tests.evaluation.toy_task import CHAT_TEMPLATE

RUN = make_final(
    {"training.learning_rate": 1e-3, "training.batch_size": 16}, make_plan(640, (0.0, 1.0), "validation"), value=0.6
)
SETTINGS = {
    "model.path": "or|g/base",
    "data.source": "/home/somebody/a.jsonl",
    "prompt.template": "short",
    "training.learning_rate": 5e-5,
}


@pytest.mark.parametrize("has_provenance", [True, False])
def test_a_card_says_what_the_weights_are_worth_and_where_they_come_from(
    store: StudyStore, tmp_path: Path, has_provenance: bool
) -> None:
    store.record_settings(SETTINGS)
    store.write(RUN)
    checkpoint = make_checkpoint(RUN.name, 40, "runs/final/step-000040", "f1ngerpr1nt")
    for pool, correct in (("test", {0: 10, 40: 120}), ("validation", {0: 12, 20: 90, 40: 110})):
        for step, num_correct in correct.items():
            store.write(make_score(RUN.name, step, pool, num_correct, 200, num_failed=10))
    if has_provenance:
        hashes = {f"{name}_hash": name for name in ("data", "prompt", "tokenizer")}
        written = {"settings": SETTINGS, "seed": 7, "versions": {"torch": "2.13.0"}, "device": "cpu"}
        store.write(Provenance(run=RUN.name, commit="abc", diff="+ x", base_fingerprint="b4se", **hashes, **written))
    (tmp_path / checkpoint.path).mkdir(parents=True)
    folder = write_card(store, RUN, checkpoint, StudyLayout(tmp_path))

    card = (folder / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-generation"
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]
    assert ["base model", "test", "10 of 200", "5.0% (2.7% – 9.0%)", "95.0%"] in rows
    assert ["this model", "test", "120 of 200", "60.0% (53.1% – 66.5%)", "95.0%"] in rows
    assert ["this model", "validation", "110 of 200", "55.0% (48.1% – 61.7%)", "95.0%"] in rows
    assert ["training.learning_rate", "0.001"] in rows, "the run's own, not the experiment's"
    assert ["model.path", r"or\|g/base"] in rows
    assert ["weights (BLAKE3)", "f1ngerpr1nt"] in rows
    assert (["mathsft's commit", "abc and uncommitted changes"] in rows) == has_provenance
    assert "    User: {problem}\n    Assistant: <think>" in body
    assert "The base model is or\\|g/base." in body
    assert "All problems are from a.jsonl; no problem is in two pools." in body
    assert "on the pool validation (200 problems)" in body and "on the pool test (200 problems)" in body
    assert "/home" not in card


def test_a_base_model_from_the_hub_is_named_for_the_hub(tmp_path: Path) -> None:
    assert yaml.safe_load(_front_matter({"model.path": "org/base"}).strip("-"))["base_model"] == "org/base"
    assert "base_model" not in yaml.safe_load(_front_matter({"model.path": str(tmp_path)}).strip("-"))


CHAT = {"prompt.template": "chat", "prompt.answer": "boxed", "prompt.system": "Be brief.", "prompt.chat_arguments.tone": "!"}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [{"prompt.template": "short"}, CHAT, {"prompt.template": "chat"}])
def test_the_code_in_the_card_uses_the_model_as_scoring_does(tmp_path: Path, prompt: dict[str, str]) -> None:
    model = shutil.copytree(base_model_folder(), tmp_path / "model")
    (model / "chat_template.jinja").write_text(CHAT_TEMPLATE + "{{ tone }}")
    snippet = _snippet({**prompt, "evaluation.max_tokens": 8}).replace('folder = "."', f"folder = {str(model)!r}")
    done = subprocess.run(
        [sys.executable, "-c", f"{snippet}print(repr(prompt))"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    renderer = make_renderer(_prompt_settings(prompt), AutoTokenizer.from_pretrained(model))
    assert literal_eval(done.stdout.splitlines()[-1]) == renderer.prompt(Problem("", EXAMPLE, "", ""))
