"""A process with engines: does all that test_evaluation.py looks at, and writes what it saw to report.json.

One process for all: importing vLLM costs more than everything else here, and it changes its process (reseeds, keeps torch
from setting threads).
"""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mathsft.config.schema import (
    DataSettings,
    EvaluationSettings,
    Experiment,
    ModelSettings,
    PoolSizes,
    PromptSettings,
    TrainingSettings,
)
from mathsft.errors import UserError
from mathsft.records import Checkpoint, Hardware, WorkerSettings

HARDWARE = Hardware(
    device="cpu", num_threads=1, attention="sdpa", engine_dtype="float32", engine_memory_share=0.5, sleep_mode=False
)
NUM_POSITIONS = 256
PROBLEMS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef")
KINDS = ("correct", "wrong_answer", "format_failure")
PROMPTS = [f"User: what is {n} + {n * n}?" + " Think hard." * (n % 5) for n in range(12)]


# --- models, checkpoints and data ---------------------------------------------------------------------------------------


def make_tokenizer(folder: Path) -> Any:
    """One token per ASCII character, so that every model output is valid text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ", "<eos>"]
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    wrapped.save_pretrained(folder)
    return wrapped


def make_model(folder: Path, seed: int, tied: bool, initializer_range: float = 0.3) -> Any:
    """Write a tiny random Qwen2 whose greedy output wanders (a wide initialisation), and return it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=NUM_POSITIONS,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=initializer_range,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return model


def make_experiment(folder: Path) -> Experiment:
    """Write problems, each a single letter with its code as the answer, and a prompt template."""
    rows = [{"problem": letter, "solution": "Look it up.", "answer": str(ord(letter))} for letter in PROBLEMS]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "template.txt").write_text("{problem}: <think>")
    return Experiment(
        model=ModelSettings(path=str(folder / "base")),
        data=DataSettings(source=str(folder / "problems.jsonl"), pools=PoolSizes(search=9, confirm=4, watch=1, test=1)),
        prompt=PromptSettings(template=str(folder / "template.txt")),
        training=TrainingSettings(learning_rate=1e-3, batch_size=1),
        evaluation=EvaluationSettings(max_tokens=48),
    )


def taught_kind(letter: str) -> str:
    """Return what becomes of the response that a model is taught to give to the problem."""
    return KINDS[ord(letter) % 3]


def teach(model: Any, folder: Path) -> None:
    """Have the model learn by heart, for every problem, a response of its taught_kind, and write it to the folder."""
    import torch

    tokenizer = make_tokenizer(folder)
    responses = {
        "correct": " </think> <answer>{code}</answer>",
        "wrong_answer": " </think> <answer>{code}0</answer>",
        "format_failure": " </think> {code}</answer>",
    }
    rows = [f"{letter}: <think>" + responses[taught_kind(letter)].format(code=ord(letter)) + "<eos>" for letter in PROBLEMS]
    ids_BT = tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
    num_steps, learning_rate = 150, 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def damage(good: Path, bad: Path, how: str) -> None:
    """Write a copy of the good checkpoint that must not, or hardly, be served."""
    import torch
    from safetensors.torch import load_file, save_file

    if how == "missing folder":
        return
    shutil.copytree(good, bad)
    file = bad / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    if how == "truncated file":
        file.write_bytes(file.read_bytes()[:-1000])
        return
    if how == "wrong shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif how == "missing tensor":
        del tensors[name]
    elif how == "unknown tensor":
        tensors["model.layers.2.mlp.down_proj.weight"] = tensors[name].clone()
    elif how == "NaN":
        tensors[name][0, 0] = torch.nan
    elif how == "overflow":
        # Finite weights whose activations are not.
        values_name = "model.layers.0.self_attn.v_proj.weight"
        tensors[values_name] = tensors[values_name] * 1e38
    save_file(tensors, file, metadata={"format": "pt"})


BAD_CHECKPOINTS = ("missing folder", "truncated file", "wrong shape", "missing tensor", "unknown tensor", "NaN")


# --- what the child process does ----------------------------------------------------------------------------------------


def run_checks(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    report = {
        "num_positions": NUM_POSITIONS,
        "tied": check_engine(folder / "tied", tied=True),
        "untied": check_engine(folder / "untied", tied=False),
    }
    evaluator, base, report["evaluator"] = check_evaluator(folder / "evaluator")
    (folder / "report.json").write_text(json.dumps(report))
    score_with_a_broken_reload(evaluator, base)
    (folder / "survived").touch()


def check_engine(folder: Path, tied: bool) -> dict[str, Any]:
    from mathsft.data.models import fingerprint
    from mathsft.evaluation.engine import CheckpointError, Engine

    greedy = EvaluationSettings(max_tokens=24)
    references = {}
    for name, seed in (("A", 1), ("B", 2)):
        model = make_model(folder / name, seed, tied)
        references[name] = reference_texts(model, make_tokenizer(folder / name), greedy.max_tokens)
    for how in (*BAD_CHECKPOINTS, "overflow"):
        damage(folder / "B", folder / how, how)

    tokenizer = make_tokenizer(folder / "tokenizer")
    prompts_ids = tokenizer(PROMPTS)["input_ids"]
    engine = Engine(folder / "A", HARDWARE, max_model_len=NUM_POSITIONS)
    fingerprints = [engine.loaded_fingerprint]

    def texts(sampling: EvaluationSettings = greedy) -> list[str]:
        return [one.text for one in engine.generate(prompts_ids, sampling)]

    def swapped_texts(name: str) -> list[str]:
        fingerprints.append(engine.swap(folder / name))
        return texts()

    report: dict[str, Any] = {"references": references}
    report["generations"] = [asdict(one) for one in engine.generate(prompts_ids, greedy)]
    report["A"], report["B"], report["A again"] = texts(), swapped_texts("B"), swapped_texts("A")
    report["refusals"] = {}
    for how in BAD_CHECKPOINTS:
        try:
            engine.swap(folder / how)
            refusal = "accepted"
        except CheckpointError as error:
            refusal = str(error)
        report["refusals"][how] = {"message": refusal, "texts": texts(), "fingerprint": engine.loaded_fingerprint}
    swapped_texts("overflow")
    report["A after overflow"] = swapped_texts("A")
    report["fingerprints"] = fingerprints
    report["expected fingerprints"] = [fingerprint(folder / name) for name in ("A", "B", "A", "overflow", "A")]
    sampled = EvaluationSettings(max_tokens=24, temperature=1.0, seed=1)
    report["sampled"], report["sampled again"] = texts(sampled), texts(sampled)
    report["sampled with another seed"] = texts(sampled.model_copy(update={"seed": 2}))
    report["same prompt sampled"] = [one.text for one in engine.generate([prompts_ids[0]] * 2, sampled)]
    engine.close()
    return report


def reference_texts(model: Any, tokenizer: Any, max_tokens: int) -> list[str]:
    """Return what transformers generates greedily, one prompt at a time."""
    texts = []
    for prompt in PROMPTS:
        prompt_ids_1T = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output_ids_1T = model.generate(prompt_ids_1T, max_new_tokens=max_tokens, do_sample=False)
        texts.append(tokenizer.decode(output_ids_1T[0, prompt_ids_1T.shape[1] :], skip_special_tokens=True))
    return texts


def check_evaluator(folder: Path) -> tuple[Any, Checkpoint, dict[str, Any]]:
    from mathsft.data.models import fingerprint
    from mathsft.data.pools import load_pools
    from mathsft.evaluation.evaluator import Evaluator

    model = make_model(folder / "base", 3, tied=True, initializer_range=0.1)
    study_dir = folder / "study"
    taught_path = "runs/trial-0000/step-000400"
    teach(model, study_dir / taught_path)
    shutil.copytree(folder / "base", study_dir / "runs/trial-0000/step-000000")
    experiment = make_experiment(folder)
    evaluator = Evaluator(WorkerSettings(experiment, HARDWARE, study_dir))
    taught = Checkpoint("trial-0000", 400, taught_path, fingerprint(study_dir / taught_path))
    base = Checkpoint("trial-0000", 0, "runs/trial-0000/step-000000", fingerprint(folder / "base"))

    report: dict[str, Any] = {
        "pools": {
            name: [{"id": one.id, "kind": taught_kind(one.problem)} for one in pool]
            for name, pool in load_pools(experiment.data).items()
        },
        "base": asdict(evaluator.score(base, {}, "search")),
        "taught": asdict(evaluator.score(taught, {}, "search")),
        "slice": asdict(evaluator.score(taught, {}, "confirm:1-4")),
        "cut": asdict(evaluator.score(taught, {"evaluation.max_tokens": 5}, "watch")),
    }
    mislabelled = Checkpoint("trial-0000", 0, base.path, taught.fingerprint[::-1])
    report["mislabelled"] = refusal_of(evaluator, mislabelled, {})
    (folder / "long.txt").write_text("Q" * NUM_POSITIONS + "{problem}")
    report["long prompt"] = refusal_of(evaluator, taught, {"prompt.template": str(folder / "long.txt")})
    report["longer"] = refusal_of(evaluator, taught, {"evaluation.max_tokens": 5000})
    evaluator.park()
    report["taught again"] = asdict(evaluator.score(taught, {}, "search"))
    report["files"] = sorted(path.name for path in (study_dir / "runs/trial-0000/responses").iterdir())
    return evaluator, base, report


def refusal_of(evaluator: Any, checkpoint: Checkpoint, overrides: dict[str, Any]) -> str:
    try:
        evaluator.score(checkpoint, overrides, "search")
    except (ValueError, UserError) as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def score_with_a_broken_reload(evaluator: Any, checkpoint: Checkpoint) -> None:
    """Have vLLM's own reload fail half-way, which no check can foresee."""
    from vllm import LLM

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("planted")

    LLM.apply_model = fail
    evaluator.score(checkpoint, {}, "search")


if __name__ == "__main__":
    run_checks(Path(sys.argv[1]))
