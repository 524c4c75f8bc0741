"""Trains the quickstart's model for some steps and lets transformers and vLLM, each as anyone would use it, load the
published folder and answer prompts.
"""

import gc
from pathlib import Path
from typing import Any

from mathsft.config.load import load_settings
from mathsft.data.pools import load_pools
from mathsft.layout import StudyLayout
from mathsft.prompts.request import fill, request_template
from mathsft.records import Checkpoint
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from tests.build import make_final, make_plan

NUM_EXAMPLES, MAX_TOKENS = 2048, 64
SMALL = (
    "training.precision=fp32",
    "data.pools.train=2048",
    "data.pools.search=24",
    *(f"data.pools.{name}=1" for name in ("confirm", "validation", "test")),
)


def answers_of_export(folder: Path) -> dict[str, list[list[int]]]:
    """Return the tokens that each of the two generates after the prompts."""
    loaded = load_settings("quickstart", None, [*SMALL, f"model.path={base_model_folder()}"])
    hardware = WorkerDevice("cpu", 1, "tree", "float32", 0.5, False)
    checkpoint = train(WorkerSettings(loaded.experiment, hardware, StudyLayout(folder)))
    template = request_template(loaded.experiment.prompt)
    prompts = [fill(template, problem.problem) for problem in load_pools(loaded.experiment.data)["search"]]
    exported = folder / checkpoint.path
    return {"transformers": by_transformers(exported, prompts), "vllm": by_vllm(exported, prompts)}


def train(settings: WorkerSettings) -> Checkpoint:
    from tests.training.settled import Trainer

    plan = make_plan(NUM_EXAMPLES)
    return Trainer(settings).advance(make_final(plan=plan), plan.num_steps(32))


def by_transformers(exported: Path, prompts: list[str]) -> list[list[int]]:
    """Return the tokens that transformers generates greedily in fp32, a prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    generated = []
    for prompt in prompts:
        prompt_ids_1T = tokenizer(prompt, return_tensors="pt").input_ids
        output_ids_1T: Any = model.generate(prompt_ids_1T, max_new_tokens=MAX_TOKENS, do_sample=False)
        generated.append(output_ids_1T[0, prompt_ids_1T.shape[1] :].tolist())
    return generated


def by_vllm(exported: Path, prompts: list[str]) -> list[list[int]]:
    """Return the tokens that vLLM generates greedily in fp32, with all else as the folder says."""
    from vllm import LLM

    llm = LLM(str(exported), dtype="float32", enforce_eager=True, max_model_len=256, use_tqdm_on_load=False)
    sampling = llm.get_default_sampling_params()
    sampling.temperature, sampling.max_tokens = 0.0, MAX_TOKENS
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    generated = [list(output.outputs[0].token_ids) for output in outputs]
    llm.llm_engine.engine_core.shutdown()  # a process may hold only one engine at a time
    del llm
    gc.collect()
    return generated
