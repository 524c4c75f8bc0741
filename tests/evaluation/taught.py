"""Tiny models, the responses that one learns by heart, checkpoints with faults, and the problems and settings of all."""

import json
import shutil
from pathlib import Path
from typing import Any

from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment
from tests.build import make_experiment

NUM_POSITIONS = 256
PROBLEMS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
KINDS = ("correct", "wrong_answer", "format_failure")


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


def make_model(folder: Path, seed: int, tied: bool, initializer_range: float = 0.3, hidden_size: int = 64) -> Any:
    """Write a tiny random Qwen2 whose greedy output wanders (a wide initialisation), and return it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
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


def write_experiment(folder: Path) -> Experiment:
    """Write problems, each a single letter with its code as the answer, and a prompt template."""
    rows = [{"problem": letter, "solution": solution(letter), "answer": str(ord(letter))} for letter in PROBLEMS]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "template.txt").write_text("{problem}: <think>")
    pools = {"search": 9, "confirm": 4, "validation": 1, "test": 1}
    experiment = make_experiment(str(folder / "base"), str(folder / "problems.jsonl"), pools)
    return apply_overrides(experiment, {"prompt.template": str(folder / "template.txt"), "evaluation.max_tokens": 48})


def solution(letter: str) -> str:
    """Return the problem's solution; every other one is too long for the engine to read."""
    return "Look it up." * (1 + 30 * (ord(letter) % 2))


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
