"""Trains the quickstart's model on a toy data set of the task exact_match, in a chat with boxed answers, and scores it."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mathsft.config.load import apply_overrides
from mathsft.layout import StudyLayout
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from tests.build import make_experiment, make_final, make_plan

CHAT_TEMPLATE = """
{%- for message in messages %}
    {{- message.role + ': ' + message.content + (eos_token if message.role == 'assistant' else '\\n') }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}
"""
WORDS = ("yes", "no")
PROMPT = {
    "task": "exact_match",
    "prompt.template": "chat",
    "prompt.answer": "boxed",
    "prompt.message": "{problem}",
    "evaluation.max_tokens": 24,
}


def score_of_exact_match(folder: Path) -> dict[str, Any]:
    """Return the score, and the responses, of a trained checkpoint."""
    from mathsft.evaluation.evaluator import Evaluator
    from tests.training.settled import Trainer

    model = shutil.copytree(base_model_folder(), folder / "model")
    (model / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    rows = [{"question": f"Say {WORDS[n % 2]} to {n}.", "answer": WORDS[n % 2]} for n in range(300)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pools = {"search": 24, "confirm": 1, "validation": 1, "test": 1}
    experiment = make_experiment(str(model), str(folder / "words.jsonl"), pools, batch_size=16, learning_rate=3e-3)
    hardware = WorkerDevice("cpu", 1, "tree", "float32", 0.5, sleep_mode=False)
    settings = WorkerSettings(apply_overrides(experiment, PROMPT), hardware, StudyLayout(folder / "study"))
    plan = make_plan(1920)
    run = make_final(plan=plan)
    checkpoint = Trainer(settings).advance(run, plan.num_steps(16))
    evaluator = Evaluator(settings)
    score = evaluator.score(checkpoint, settings.experiment, "search", False)
    evaluator._engine.close()
    lines = (settings.layout / score.responses_path).read_text().splitlines()
    return {"score": asdict(score), "responses": [json.loads(line) for line in lines]}
