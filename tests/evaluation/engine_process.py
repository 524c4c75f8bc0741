"""A process with engines: does all that test_evaluation.py looks at, and writes what it saw to report.json.

One process for all: importing vLLM costs more than everything else here, and it changes its process (reseeds, keeps torch
from setting threads).
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adapted import check_adapters, train_adapters
from exported import answers_of_export
from taught import (
    BAD_CHECKPOINTS,
    NUM_POSITIONS,
    PROBLEMS,
    damage,
    make_model,
    make_tokenizer,
    solution,
    teach,
    write_experiment,
)
from toy_task import score_of_exact_match

from mathsft.config.load import apply_overrides
from mathsft.config.schema import EvaluationSettings
from mathsft.errors import CheckpointError, UserError
from mathsft.layout import ENGINE_CHECK, StudyLayout
from mathsft.records import Checkpoint
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from mathsft.workers.placement import PACKED_FROM_WIDTH
from tests.build import make_checkpoint

HARDWARE = WorkerDevice(
    device="cpu",
    num_threads=1,
    attention="sdpa",
    engine_dtype="float32",
    engine_memory_share=0.5,
    sleep_mode=False,
    packs_from_width=PACKED_FROM_WIDTH,
)
PROMPTS = [f"User: what is {n} + {n * n}?" + " Think hard." * (n % 5) for n in range(12)]
LONG_PROMPTS = [f"{n}" * 60 + "?" for n in range(100, 200)]
"""More tokens than the engine reads in one step: it reads some of these prompts in chunks."""
GREEDY = EvaluationSettings(max_tokens=24)
SAMPLED = EvaluationSettings(max_tokens=24, temperature=0.7, seed=1)


def run_checks(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    adapted = train_adapters(folder / "adapted", HARDWARE)  # first: vLLM changes its process
    report = {
        "num_positions": NUM_POSITIONS,
        "head sizes": supported_head_sizes(),
        "export": answers_of_export(folder / "export"),  # it trains, too
        "exact match": score_of_exact_match(folder / "toy"),  # and so does this
        "adapters": check_adapters(*adapted),
        "tied": check_engine(folder / "tied", tied=True, hidden_size=PACKED_FROM_WIDTH),
        "untied": check_engine(folder / "untied", tied=False, hidden_size=64),
    }
    evaluator, taught, report["evaluator"] = check_evaluator(folder / "evaluator")
    (folder / "report.json").write_text(json.dumps(report))
    score_with_a_broken_reload(evaluator, taught)
    (folder / "survived").touch()


def supported_head_sizes() -> list[int]:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes: list[int] = CPUAttentionBackend.get_supported_head_sizes()
    return sizes


def check_engine(folder: Path, tied: bool, hidden_size: int) -> dict[str, Any]:
    from mathsft.data.weights import fingerprint
    from mathsft.evaluation.engine import Engine

    references, models = {}, {}
    for name, seed in (("A", 1), ("B", 2)):
        models[name] = make_model(folder / name, seed, tied, 2.4 / hidden_size**0.5, hidden_size)
        references[name] = reference_texts(models[name], make_tokenizer(folder / name), GREEDY.max_tokens)
    for how in (*BAD_CHECKPOINTS, "overflow"):
        damage(folder / "B", folder / how, how)

    tokenizer = make_tokenizer(folder / "tokenizer")
    prompts_ids = tokenizer(PROMPTS)["input_ids"]
    engine = Engine(folder / "A", fingerprint(folder / "A"), HARDWARE, max_model_len=NUM_POSITIONS)
    fingerprints = [engine.loaded_fingerprint]

    def texts(sampling: EvaluationSettings = GREEDY) -> list[str]:
        return [one.text for one in engine.generate(prompts_ids, sampling)]

    def swapped_texts(name: str) -> list[str]:
        engine.swap(folder / name, fingerprint(folder / name))
        fingerprints.append(engine.loaded_fingerprint)
        return texts()

    report: dict[str, Any] = {"references": references}
    report["generations"] = [asdict(one) for one in engine.generate(prompts_ids, GREEDY)]
    report["measured"] = [
        measure(engine, models["A"], tokenizer, prompts, sampling)
        for prompts in (PROMPTS, LONG_PROMPTS)
        for sampling in (GREEDY, SAMPLED)
    ]
    report["A"], report["B"], report["A again"] = texts(), swapped_texts("B"), swapped_texts("A")
    report["refusals"] = {}
    for how in BAD_CHECKPOINTS:
        try:
            engine.swap(folder / how, fingerprint(folder / how) if (folder / how).exists() else "")
            refusal = "accepted"
        except CheckpointError as error:
            refusal = str(error)
        report["refusals"][how] = {"message": refusal, "texts": texts(), "fingerprint": engine.loaded_fingerprint}
    swapped_texts("overflow")
    report["A after overflow"] = swapped_texts("A")
    report["fingerprints"] = fingerprints
    report["expected fingerprints"] = [fingerprint(folder / name) for name in ("A", "B", "A", "overflow", "A")]
    report["sampled"], report["sampled again"] = texts(SAMPLED), texts(SAMPLED)
    report["sampled with another seed"] = texts(SAMPLED.model_copy(update={"seed": 2}))
    report["same prompt sampled"] = [one.text for one in engine.generate([prompts_ids[0]] * 2, SAMPLED)]
    finished: list[int] = []
    three_times = engine.generate(prompts_ids, SAMPLED.model_copy(update={"num_samples": 3}), on_finished=finished.append)
    report["sampled three times"], report["finished"] = [one.text for one in three_times], finished
    engine.close()
    return report


def measure(
    engine: Any, model: Any, tokenizer: Any, prompts: list[str], sampling: EvaluationSettings
) -> dict[str, list[list[Any]]]:
    """Return entropies of responses, and log probabilities of prompts with responses: the engine's, then transformers'."""
    prompts_ids = tokenizer(prompts)["input_ids"]
    generations = engine.generate(prompts_ids, sampling)
    # The engine's own texts, all of which its prefix cache may know.
    texts_ids = [
        prompt_ids + (tokenizer(one.text)["input_ids"] + [tokenizer.eos_token_id])[: one.num_tokens]
        for prompt_ids, one in zip(prompts_ids, generations, strict=True)
    ]
    entropies, logprobs = [], []
    for text_ids, one in zip(texts_ids, generations, strict=True):
        logits_TV = logits_of(model, text_ids)
        drawn_TV = (logits_TV[-one.num_tokens :] / (sampling.temperature or 1)).log_softmax(1)
        entropies.append(-(drawn_TV.exp() * drawn_TV).sum(1).mean().item())
        logprobs.append(token_logprobs_of(logits_TV, text_ids)[-one.num_tokens :])
    return {
        "entropies": [[one.entropy for one in generations], entropies],
        "logprobs": [engine.token_logprobs(texts_ids, [len(prompt_ids) for prompt_ids in prompts_ids]), logprobs],
    }


def logits_of(model: Any, text_ids: list[int]) -> Any:
    """Return transformers' logits for each token of the text but the first."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([text_ids])).logits[0, :-1]


def token_logprobs_of(logits_TV: Any, text_ids: list[int]) -> list[float]:
    import torch

    logprobs: list[float] = logits_TV.log_softmax(1).gather(1, torch.tensor(text_ids)[1:, None])[:, 0].tolist()
    return logprobs


def reference_texts(model: Any, tokenizer: Any, max_tokens: int) -> list[str]:
    """Return what transformers generates greedily, one prompt at a time."""
    texts = []
    for prompt in PROMPTS:
        prompt_ids_1T = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output_ids_1T = model.generate(prompt_ids_1T, max_new_tokens=max_tokens, do_sample=False)
        texts.append(tokenizer.decode(output_ids_1T[0, prompt_ids_1T.shape[1] :], skip_special_tokens=True))
    return texts


def check_evaluator(folder: Path) -> tuple[Any, Checkpoint, dict[str, Any]]:
    from mathsft.data.pools import load_pools
    from mathsft.evaluation import engine
    from mathsft.evaluation.evaluator import Evaluator

    model = make_model(folder / "base", 3, tied=True, initializer_range=0.1)
    study_dir = folder / "study"
    run_dir = study_dir / "runs/trial-0000"
    teach(model, run_dir / "step-000400")
    shutil.copytree(folder / "base", run_dir / "step-000000")
    experiment = write_experiment(folder)
    settings = WorkerSettings(experiment, HARDWARE, StudyLayout(study_dir))
    evaluator = Evaluator(settings)
    base, taught = (checkpoint_of(study_dir, step) for step in (0, 400))

    report: dict[str, Any] = {
        "pools": {
            name: [{"id": one.id, "letter": one.problem} for one in pool]
            for name, pool in load_pools(experiment.data).items()
        },
        "base": asdict(score(evaluator, base, {}, "search", True)),
        "taught": asdict(score(evaluator, taught, {}, "search", True)),
        "progress": settings.layout.scoring("trial-0000", 400, "search").read_text(),
        "slice": asdict(score(evaluator, taught, {}, "confirm:1-4", False)),
        "cut": asdict(score(evaluator, taught, {"evaluation.max_tokens": 5}, "validation", True)),
        "no solution": asdict(score(evaluator, taught, {"data.test_source": unsolved(folder)}, "test", True)),
        "sampled": asdict(
            score(evaluator, taught, {"evaluation.temperature": 0.5, "evaluation.num_samples": 3}, "test", True)
        ),
        "gold nll": {letter: gold_nll(model, folder / "base", letter) for letter in PROBLEMS},
    }
    mislabelled = replace(base, fingerprint=taught.fingerprint[::-1])
    report["mislabelled"] = refusal_of(evaluator, mislabelled, {})
    (folder / "long.txt").write_text("Q" * NUM_POSITIONS + "{problem}")
    report["long prompt"] = refusal_of(evaluator, taught, {"prompt.template": str(folder / "long.txt")})
    report["longer"] = refusal_of(evaluator, taught, {"evaluation.max_tokens": 5000})
    evaluator.park()
    report["taught again"] = asdict(score(evaluator, taught, {}, "search", True))
    report["files"] = sorted(path.name for path in (run_dir / "responses").glob("*.jsonl"))

    pair = (replace(base, path=ENGINE_CHECK), replace(taught, path=f"{ENGINE_CHECK}-changed"))
    for checkpoint, origin in zip(pair, (base, taught), strict=True):
        shutil.copytree(study_dir / origin.path, study_dir / checkpoint.path)
    report["check"] = asdict(evaluator.check_engine(*pair))

    load, engine._load = engine._load, lambda model, tensors: None
    report["broken swap"] = refusal_of(evaluator, taught, {})
    evaluator._engine.close()
    evaluator = Evaluator(settings)
    report["check of a broken swap"] = answer_of(evaluator.check_engine, *pair)
    report["broken swap in an unproven engine"] = refusal_of(evaluator, taught, {})
    evaluator._engine.close()
    anew = experiment.model_copy(update={"evaluation": experiment.evaluation.model_copy(update={"load": "new_engine"})})
    evaluator = Evaluator(replace(settings, experiment=anew))
    report["check with new engines"] = answer_of(evaluator.check_engine, *pair)
    recorded = {"evaluation.load": "swap"}  # in a run that was made before the user changed this
    report["taught in a new engine"] = asdict(score(evaluator, taught, recorded, "search", True))
    wrong = replace(base.logprob_check, logprobs=tuple(value - 0.25 for value in base.logprob_check.logprobs))
    report["check of another function"] = answer_of(evaluator.check_engine, replace(pair[0], logprob_check=wrong), pair[1])
    evaluator._engine.close()
    evaluator = Evaluator(settings)
    engine._load = load
    report["mended"] = asdict(score(evaluator, base, {}, "search", True))
    return evaluator, taught, report


def score(evaluator: Any, checkpoint: Checkpoint, overrides: dict[str, Any], pool: str, with_gold_nll: bool) -> Any:
    """Have the checkpoint scored with these settings upon the evaluator's own experiment."""
    return evaluator.score(checkpoint, apply_overrides(evaluator._settings.experiment, overrides), pool, with_gold_nll)


def unsolved(folder: Path) -> str:
    """Write a test split whose problem has an answer, but no solution to learn from."""
    path = folder / "test.jsonl"
    path.write_text(json.dumps({"question": "A", "answer": "65"}) + "\n")
    return str(path)


def checkpoint_of(study_dir: Path, step: int) -> Checkpoint:
    """Return the checkpoint of a published folder as the trainer would."""
    import torch

    from mathsft.data.weights import fingerprint
    from mathsft.training.logprob_check import make_logprob_check
    from mathsft.training.state import load_base

    path = f"runs/trial-0000/step-{step:06d}"
    base = load_base(study_dir / path, "sdpa")
    token_ids = tuple(make_tokenizer(study_dir / "tokenizer")(" ".join(PROMPTS))["input_ids"][:65])
    logprob_check = make_logprob_check(base.model, base.weights, token_ids, torch.float32)
    return make_checkpoint("trial-0000", step, path, fingerprint(study_dir / path), logprob_check)


def gold_nll(model: Any, tokenizer_folder: Path, letter: str) -> float:
    """Return the mean negative log likelihood that transformers gives the problem's training target, EOS included."""
    tokenizer = make_tokenizer(tokenizer_folder)
    prompt_ids = tokenizer(f"{letter}: <think>")["input_ids"]
    target = f" {solution(letter)} </think> <answer> {ord(letter)} </answer>"
    text_ids = (prompt_ids + tokenizer(target)["input_ids"] + [tokenizer.eos_token_id])[:NUM_POSITIONS]
    logprobs = token_logprobs_of(logits_of(model, text_ids), text_ids)[len(prompt_ids) - 1 :]
    return -sum(logprobs) / len(logprobs)


def refusal_of(evaluator: Any, checkpoint: Checkpoint, overrides: dict[str, Any]) -> str:
    answer = answer_of(score, evaluator, checkpoint, overrides, "search", True)
    return answer if isinstance(answer, str) else "accepted"


def answer_of(function: Callable[..., Any], *args: Any) -> Any:
    """Return the record that the function returns, as a dictionary, or its error in words."""
    try:
        return asdict(function(*args))
    except (CheckpointError, UserError, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


def score_with_a_broken_reload(evaluator: Any, checkpoint: Checkpoint) -> None:
    """Have vLLM's own reload fail half-way, which no check can foresee."""
    from vllm import LLM

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("planted")

    LLM.apply_model = fail
    score(evaluator, checkpoint, {}, "search", True)


if __name__ == "__main__":
    run_checks(Path(sys.argv[1]))
