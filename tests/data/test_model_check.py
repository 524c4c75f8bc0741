"""What config.json and tokenizer.json say is checked against the experiment before any worker starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment, Scalar
from mathsft.data.model_check import check_model
from mathsft.errors import UserError
from mathsft.records import Problem

WORDS = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ", "<eos>", "<image>"]
EOS, IMAGE = WORDS.index("<eos>"), WORDS.index("<image>")
CONFIG = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": len(WORDS),
}
PROBLEMS = (Problem("1", "1 + 1", "It is 2.", "2"), Problem("2", "2 + 2", "It is 4.", "4"))

Check = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path, experiment: Experiment) -> Check:
    """Check a model folder with these changes of its files against the experiment with these settings."""

    def check(
        config: dict[str, Any] | None = None,
        tokenizer_config: dict[str, Any] | None = None,
        problems: tuple[Problem, ...] = PROBLEMS,
        *,
        appends_eos: bool = False,
        on_cpu: bool = True,
        **settings: Scalar,
    ) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", **(tokenizer_config or {})}))
        tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(WORDS)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.add_special_tokens(["<eos>", "<image>"])
        if appends_eos:
            tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", EOS)])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        overrides = {f"training.{name}": value for name, value in settings.items()}
        check_model(tmp_path, apply_overrides(experiment, overrides), problems, on_cpu=on_cpu)

    return check


def test_a_model_that_fits_passes(check: Check) -> None:
    check()
    check(max_length_tokens=2048)


def test_more_tokens_than_positions_are_refused(check: Check) -> None:
    with pytest.raises(
        UserError, match=r"training.max_length_tokens = 2049: the model in .* has 2048 positions; set it to 2048"
    ):
        check(max_length_tokens=2049)
    with pytest.raises(UserError, match="has 1024 positions"):
        check({"max_position_embeddings": None, "n_positions": 1024}, max_length_tokens=2000)
    with pytest.raises(UserError, match="has 512 positions"):
        check({"text_config": {"max_position_embeddings": 512}}, max_length_tokens=2000)


@pytest.mark.parametrize(
    "config",
    [{"hidden_size": 48}, {"head_dim": 24}, {"hidden_size": None, "num_attention_heads": None, "n_embd": 48, "n_head": 2}],
)
def test_heads_that_the_engine_has_no_kernel_for_are_refused_on_a_cpu(check: Check, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="attention heads of size 24, and vLLM on a CPU serves only 32, 64"):
        check(config)
    check(config, on_cpu=False)


def test_heads_of_several_sizes_are_left_to_the_engine(check: Check) -> None:
    check({"kv_lora_rank": 16, "hidden_size": 48})


def test_ids_beyond_the_embedding_are_refused_where_a_text_has_them(check: Check) -> None:
    without_image = {"vocab_size": IMAGE}
    check(without_image)  # Gemma 3's smallest model has such a token, for images that it never sees
    planted = Problem("3", "Look at <image>.", "It is 2.", "2")
    with pytest.raises(
        UserError, match=rf"{IMAGE} rows, but the tokenizer of .* produces the id {IMAGE} \(<image>\) in the problem"
    ):
        check(without_image, problems=(*PROBLEMS, planted))


def test_an_eos_beyond_the_embedding_is_refused(check: Check) -> None:
    with pytest.raises(
        UserError, match=rf"{EOS} rows, but the tokenizer of .* produces the id {EOS} \(<eos>\) for the end of every text"
    ):
        check({"vocab_size": EOS})
    with pytest.raises(UserError, match="for the end of every text"):
        check({"vocab_size": EOS}, {"eos_token": {"content": "<eos>", "lstrip": False}})


def test_a_tokenizer_that_appends_eos_to_prompts_is_refused(check: Check) -> None:
    with pytest.raises(UserError, match="appends EOS to every text, so prompts would end before the model answers"):
        check(appends_eos=True)
    with pytest.raises(UserError, match="set add_eos_token to false"):
        check(tokenizer_config={"add_eos_token": True})


@pytest.mark.parametrize(("content", "told"), [("{", "is not JSON"), ("[]", "contains no JSON object")])
def test_a_damaged_configuration_is_named(
    check: Check, tmp_path: Path, experiment: Experiment, content: str, told: str
) -> None:
    check()
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"config.json {told}.*fetch the file again"):
        check_model(tmp_path, experiment, PROBLEMS, on_cpu=True)
    check()
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read .*fetch the file again"):
        check_model(tmp_path, experiment, PROBLEMS, on_cpu=True)
