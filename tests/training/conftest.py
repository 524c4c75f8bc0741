import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mathsft.layout import StudyLayout
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from tests.build import LEAST_POOLS, make_experiment

KINDS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}

MakeModel = Callable[..., Path]
MakeSettings = Callable[..., WorkerSettings]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def small_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every trainer of a test the tenths of a second in which it would find the best rate of products."""
    monkeypatch.setattr("mathsft.training.meter.gemm.SIZES", (64,))


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Make a model folder with random weights and a tokenizer of single bytes; the same for the same arguments."""

    @cache
    def make(kind: str, tied: bool, dtype: torch.dtype, settings: tuple[tuple[str, object], ...]) -> Path:
        folder = tmp_path_factory.mktemp("model")
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(["<eos>", *alphabet])}, merges=[]))
        tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokens.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<eos>").save_pretrained(folder)

        torch.manual_seed(0)
        config_class, model_class = KINDS[kind]
        defaults = {
            "vocab_size": len(alphabet) + 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "tie_word_embeddings": tied,
            "initializer_range": 0.1,
            "eos_token_id": 0,
            "bos_token_id": None,
            "pad_token_id": None,
        }
        config = config_class(**(defaults | dict(settings)))
        model_class(config).to(dtype).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def make_model(shared_models: MakeModel, tmp_path: Path) -> MakeModel:
    """Give the test a model folder of its own."""

    def make(kind: str = "qwen2", tied: bool = False, dtype: torch.dtype = torch.float32, **settings: object) -> Path:
        folder = shared_models(kind, tied, dtype, tuple(settings.items()))
        return Path(shutil.copytree(folder, tmp_path / f"{kind}-{tied}", dirs_exist_ok=True))

    return make


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Make a worker's settings: little sums as data, fp32, 4 examples a step."""

    def make(model: Path, **training: object) -> WorkerSettings:
        data = tmp_path / "sums.jsonl"
        rows = [
            {
                "problem": f"What is {n} + {n * n}?",
                "solution": f"{n} + {n * n} = {n + n * n}." + " So." * (n % 5),
                "answer": str(n + n * n),
            }
            for n in range(80)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changed = {"learning_rate": 3e-3, "batch_size": 4, **training}
        experiment = make_experiment(str(model), str(data), LEAST_POOLS, **changed)
        hardware = WorkerDevice("cpu", 1, "tree", "float32", 0.5, sleep_mode=False)
        return WorkerSettings(experiment, hardware, StudyLayout(tmp_path / "study"))

    return make


@pytest.fixture
def settings(make_model: MakeModel, make_settings: MakeSettings) -> WorkerSettings:
    return make_settings(make_model())
