"""A published checkpoint is a folder that others load: transformers and vLLM answer from it with the same tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mathsft.workers.placement import CPU_EVALUATOR_ENV

END_OF_SEQUENCE = 0
"""The quickstart's."""


@pytest.mark.slow
def test_transformers_and_vllm_generate_the_same_from_the_exported_folder(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("export_process.py")), str(tmp_path)],
        env=os.environ | CPU_EVALUATOR_ENV | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "export.json").exists(), process.stderr[-4000:]
    said = json.loads((tmp_path / "export.json").read_text())
    assert said["vllm"] == said["transformers"]
    assert len(said["vllm"]) == 24
    assert sum(tokens[-1] == END_OF_SEQUENCE for tokens in said["vllm"]) >= 12, "both stop where the folder says"
    assert len({tuple(tokens) for tokens in said["vllm"]}) >= 12, "answers differ from problem to problem"
