"""Makes the workload of bench.training: a model's folder and batches of encoded examples, the same for all contenders."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mathsft.config.schema import PromptSettings
from mathsft.data.examples import encode
from mathsft.data.models import resolve_model
from mathsft.data.problems import load_problems
from mathsft.prompts.renderer import make_renderer
from mathsft.records import Example, Problem

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ROWS = Path(__file__).parent / "data" / "gsm8k_rows.jsonl"
BATCH_SIZE = 16
MAX_LENGTH_TOKENS = 1024
LEARNING_RATE = 1e-5

MODELS = ("50m", "135m")


@dataclass(frozen=True)
class Workload:
    """One model and its batches of BATCH_SIZE examples."""

    model_folder: Path
    batches: tuple[tuple[Example, ...], ...]

    @property
    def examples(self) -> list[Example]:
        """Return the examples of all batches, in order."""
        return [example for batch in self.batches for example in batch]

    def part(self, start: int, num_batches: int) -> "Workload":
        """Return the workload of num_batches batches that begin with the batch at start."""
        return Workload(self.model_folder, self.batches[start : start + num_batches])


def choose_problems(problems: Sequence[Problem], num_batches: int, seed: int) -> list[Problem]:
    """Return BATCH_SIZE different problems per batch; the seed determines them and their order."""
    return random.Random(seed).sample(problems, num_batches * BATCH_SIZE)


def make_workload(model: str, num_batches: int, seed: int, scratch: Path) -> Workload:
    """Return the workload of "50m" (random weights, written to the folder scratch) or "135m" (SmolLM2)."""
    from transformers import AutoTokenizer

    smollm2_folder = resolve_model("smollm2-135m")
    model_folder = smollm2_folder if model == "135m" else _make_50m(smollm2_folder, scratch / "50m", seed)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder, local_files_only=True)
    problems = choose_problems(load_problems(str(ROWS)).problems, num_batches, seed)
    examples = encode(problems, make_renderer(PromptSettings(template="r1_zero"), tokenizer), MAX_LENGTH_TOKENS).examples
    batches = tuple(examples[start : start + BATCH_SIZE] for start in range(0, len(examples), BATCH_SIZE))
    return Workload(model_folder, batches)


def load_config(workload: Workload) -> "PretrainedConfig":
    """Return the configuration of the workload's model."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(workload.model_folder, local_files_only=True)


def _make_50m(tokenizer_folder: Path, folder: Path, seed: int) -> Path:
    """Write a Qwen2 of 49 million parameters with tied embeddings, SmolLM2's vocabulary and random bf16 weights."""
    import torch
    import transformers
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    transformers.utils.logging.disable_progress_bar()
    config = Qwen2Config(
        vocab_size=49152,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True).save_pretrained(folder)
    return folder


def result_line(
    model: str,
    precision: str,
    ours_vs_trl_best: float,
    ours_vs_strongest_peer: float,
    gemm_share: float,
    product_share: float,
    max_grad_error: float,
) -> str:
    """Return the bench's last line: one JSON object with rounded figures."""
    return json.dumps(
        {
            "model": model,
            "precision": precision,
            "ours_vs_trl_best": round(ours_vs_trl_best, 3),
            "ours_vs_strongest_peer": round(ours_vs_strongest_peer, 3),
            "gemm_share": round(gemm_share, 4),
            "product_share": round(product_share, 3),
            "max_grad_error": float(f"{max_grad_error:.3g}"),
        }
    )
