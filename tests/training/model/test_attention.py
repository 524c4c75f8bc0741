import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BloomConfig, BloomForCausalLM

from mathsft.training.state import load_base

MakeModel = Callable[..., Path]


@pytest.mark.parametrize(("attention", "plain"), [("tree", "eager"), ("flex", "sdpa")])
def test_a_sliding_window_gets_padded_rows_and_the_log_says_so_once(
    make_model: MakeModel, caplog: pytest.LogCaptureFixture, attention: str, plain: str
) -> None:
    assert load_base(make_model("mistral", sliding_window=20), attention).attention == plain
    [message] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "MistralForCausalLM cannot be packed: it uses sliding_window; training uses padded rows" in message


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_a_plain_causal_softmax_is_packed(make_model: MakeModel, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    settings = {"sliding_window": None} if kind == "mistral" else {}
    for attention in ("tree", "flex"):
        assert load_base(make_model(kind, **settings), attention).attention == attention
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_alibi_gets_padded_rows(make_model: MakeModel, tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=257, hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    assert load_base(tmp_path / "bloom", "tree").attention == "eager"
