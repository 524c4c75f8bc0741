"""Trains in a process that may take only so much more memory than it has, and prints as JSON what came of it.

`python short_of_memory.py MODEL HEADROOM_BYTES`; a process of its own, since a limit on memory holds for all of a process.
"""

import json
import logging
import random
import resource
import sys
from pathlib import Path

import torch

from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.cpu.memory import OutOfMemoryError
from mathsft.training.state import load_base
from mathsft.training.step import TrainingStep

CPU = torch.device("cpu")
NUM_EXAMPLES, NUM_TOKENS = 16, 512


def example(num_tokens: int) -> Example:
    ids = tuple(random.randrange(1, 257) for _ in range(num_tokens))
    return Example("", ids[: num_tokens // 2], ids[num_tokens // 2 :])


def held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    folder, headroom_bytes = Path(sys.argv[1]), int(sys.argv[2])
    logging.basicConfig(stream=sys.stderr)
    torch.set_num_threads(1)
    random.seed(0)
    base = load_base(folder, "tree")

    def new_step(budget_tokens: int, max_fitting_tokens: int | None = None) -> TrainingStep:
        training = TrainingSettings(
            learning_rate=1e-2, batch_size=NUM_EXAMPLES, precision="fp32", token_budget_tokens=budget_tokens
        )
        return TrainingStep(base, training, 2, CPU, max_fitting_tokens=max_fitting_tokens)

    batch = [example(NUM_TOKENS) for _ in range(NUM_EXAMPLES)]
    new_step(NUM_TOKENS).take(batch[:1], 1)  # what any step needs once
    allowed_bytes = held_bytes() + headroom_bytes
    resource.setrlimit(resource.RLIMIT_AS, (allowed_bytes, allowed_bytes))

    def update(step: TrainingStep) -> tuple[float, dict[str, torch.Tensor]]:
        loss = step.take(batch, 1).loss
        return loss, {name: tensor.clone() for name, tensor in step.tensors().items()}

    wide = new_step(NUM_EXAMPLES * NUM_TOKENS)
    max_fitting_tokens = [wide.max_fitting_tokens]
    loss, tensors = update(wide)
    later = new_step(NUM_EXAMPLES * NUM_TOKENS, wide.max_fitting_tokens)
    max_fitting_tokens.append(wide.max_fitting_tokens)
    update(later)
    max_fitting_tokens.append(later.max_fitting_tokens)
    expected_loss, expected = update(new_step(NUM_TOKENS))
    errors = [((tensors[name] - expected[name]).norm() / expected[name].norm()).item() for name in expected]
    refused, after = "", new_step(NUM_TOKENS)
    try:
        after.take([example(NUM_EXAMPLES * NUM_TOKENS)], 1)
    except OutOfMemoryError as error:
        refused = str(error)
    loss_after = after.take(batch, 1).loss
    no_optimizer = ""
    num_optimizer_bytes = 16 * sum(weight.numel() for weight in base.weights.values())
    hogs = []
    try:
        while True:  # until there is less room than the optimizer takes
            hogs.append(torch.empty(num_optimizer_bytes // 4, dtype=torch.uint8))
    except RuntimeError:
        pass
    try:
        new_step(NUM_TOKENS)
    except OutOfMemoryError as error:
        no_optimizer = str(error)
    told = {"refused": refused, "no_optimizer": no_optimizer, "max_fitting_tokens": max_fitting_tokens}
    print(json.dumps({"losses": [loss, expected_loss, loss_after], "error": max(errors), **told}))


main()
