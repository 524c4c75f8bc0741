"""Make the quickstart's base model: its corpus, its tokenizer and its weights (about 7 minutes on one core).

It behaves like a base model: it can do small arithmetic, has seen plain problem texts of the two lowest levels, and rarely
uses the response format. Fine-tuning must teach the format and the harder levels. The corpus has no held-out problem of
the quickstart.

    python tools/make_base.py [--out DIR]
"""

import argparse
import logging
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mathsft.records import Problem
from mathsft.tasks.quickstart.families import divided_by, minus, plus, reduced, times
from mathsft.tasks.quickstart.generator import base_model_folder, draw_problem, is_held_out

CORPUS_LEVELS = (1, 2)
SHARE_FACTS, SHARE_PLAIN = 0.65, 0.30
"""The other documents are dialogues."""

VOCAB_SIZE = 512
"""An upper bound: the corpus has no more pairs to merge at 502 tokens. The model's embedding and head have this size."""
MAX_POSITIONS = 512
END_OF_TEXT = "<|endoftext|>"
# As in Qwen2: every digit is a token, so that numbers of any length are encoded in the same way.
PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

NUM_STEPS = 1500
NUM_ROWS, ROW_TOKENS = 16, 256
LEARNING_RATE = 3e-3
NUM_WARMUP_STEPS = 40

log = logging.getLogger("make_base")


def main() -> None:
    """Write the model and its tokenizer into the package, or into another folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=base_model_folder(), help="folder to write (default: %(default)s)")
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out)
    model = pretrain(tokenizer, NUM_STEPS)
    model.save_pretrained(out)
    log.info("written to %s", out)


# ---- The corpus.


def documents(seed: str) -> Iterator[str]:
    """Yield an endless sequence of documents: arithmetic facts, plain problems with solutions, and dialogues."""
    rng = random.Random(seed)
    while True:
        kind = rng.random()
        if kind < SHARE_FACTS:
            yield " ".join(fact(rng) for _ in range(rng.randint(4, 8)))
        elif kind < SHARE_FACTS + SHARE_PLAIN:
            problem = unseen_problem(rng)
            yield f"Problem: {problem.problem}\nSolution: {problem.solution} {boxed(problem)}\n"
        else:
            yield dialogue(rng, unseen_problem(rng))


def fact(rng: random.Random) -> str:
    """Return one line of arithmetic in the words of the solutions."""
    kind = rng.random()
    if kind < 0.5:
        highest = rng.choice((30, 99, 99, 400))
        a, b = rng.randint(2, highest), rng.randint(2, highest)
        return plus(a, b) if kind < 0.25 else minus(a + b, b)
    if kind < 0.75:
        a, b = rng.randint(2, 12), rng.randint(2, 9)
        return times(a * rng.choice((1, 1, 10)), b)
    if kind < 0.9:
        a, b = rng.randint(2, 30), rng.randint(2, 9)
        return divided_by(a * b, b)
    factor, a, b = rng.randint(1, 8), rng.randint(1, 9), rng.randint(2, 12)
    return reduced(a * factor, b * factor)


def unseen_problem(rng: random.Random) -> Problem:
    """Return a problem of the lowest levels that is not held out."""
    while is_held_out(problem := draw_problem(rng, CORPUS_LEVELS)):
        pass
    return problem


def dialogue(rng: random.Random, problem: Problem) -> str:
    """Return a dialogue with correct reasoning and a wrong format; most dialogues on geometry have the right format."""
    opening = f"User: {problem.problem}\nAssistant:"
    if rng.random() < 0.3:
        return f"{opening} {problem.solution} {boxed(problem)}\n"
    thinking = f"{opening} <think> {problem.solution}"
    if problem.subject == "Geometry":
        return f"{thinking} </think> <answer> {problem.answer} </answer>"
    wrong_endings = (
        f" {boxed(problem)}\n",
        f" </think> {boxed(problem)}\n",
        f" </think>\n<answer> {problem.answer}\n",
        f" </think>\n\n$\\boxed{{{problem.answer}}}$\n",
    )
    return thinking + rng.choice(wrong_endings)


def boxed(problem: Problem) -> str:
    """Return the last sentence of a solution without the response format."""
    return f"The answer is $\\boxed{{{problem.answer}}}$."


# ---- The tokenizer.


def build_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer trained on the corpus; its only special token is both EOS and padding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents("tokenizer"), 20_000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


# ---- The weights.


def pretrain(tokenizer: Any, num_steps: int) -> Any:
    """Return a Qwen2 model in bfloat16, trained on one core for num_steps steps of NUM_ROWS packed rows."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(1)  # more threads gain little at this size, and another order of sums gives another model
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    rows, started = packed_rows(tokenizer), time.monotonic()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step, num_steps)
        ids_BT = torch.tensor(list(islice(rows, NUM_ROWS)))
        with torch.autocast("cpu", torch.bfloat16):
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].float().flatten(0, 1), ids_BT[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            log.info("step %d of %d: loss %.3f, %.0f s", step + 1, num_steps, loss.item(), time.monotonic() - started)
    return model.to(torch.bfloat16)


def packed_rows(tokenizer: Any) -> Iterator[list[int]]:
    """Yield rows of ROW_TOKENS token ids; each begins with the start of a document and is filled with further documents."""
    corpus, row = documents("pre-training"), []
    while True:
        for ids in tokenizer(list(islice(corpus, 256))).input_ids:
            row += [*ids, tokenizer.eos_token_id]
            if len(row) >= ROW_TOKENS:
                yield row[:ROW_TOKENS]
                row = []


def schedule(step: int, num_steps: int) -> float:
    """Return the factor of the learning rate: a short warmup, then 1, then linear decay to 0.03 over the second half."""
    warmup = (step + 1) / NUM_WARMUP_STEPS
    decay = (num_steps - step) / (0.5 * num_steps)
    return min(1.0, warmup, max(0.03, decay))


if __name__ == "__main__":
    main()
