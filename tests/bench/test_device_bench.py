"""bench.device: its rows, its lines when parts fail, and a whole smoke run on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import device
from bench.device import PARTS, Result, environment, groups, start, summary
from bench.device_model import QWEN2_5_1_5B, filling_batch, several_rows_batch
from bench.device_part import Context
from bench.device_trainer import CAPS_GB, FULL, MODES, SMOKE
from mathsft.config.schema import TrainingSettings
from mathsft.footprint import ModelSize, fits
from mathsft.records import Example
from mathsft.training.batching.microbatches import Packing, common_prefix, packed_micro_batches
from mathsft.training.model.block_mask import BLOCK_TOKENS
from mathsft.workers.placement import CUDA_TRAINER_ENV

ROOT = Path(__file__).parents[2]
ATTENTION, LENGTHS = PARTS[1], PARTS[2]


@pytest.mark.parametrize("row_tokens", sorted({*FULL.row_tokens, *SMOKE.row_tokens}))
def test_a_batch_fills_a_row_of_the_wanted_length(row_tokens: int) -> None:
    def rows(batch: list[Example]) -> list[int]:
        packing = Packing(common_prefix(batch), row_tokens, 0, BLOCK_TOKENS, 2 * BLOCK_TOKENS)
        return [row.ids_BT.shape[1] for row in packed_micro_batches(batch, packing, torch.device("cpu"))]

    assert rows(filling_batch(151_936, row_tokens)) == [row_tokens]
    assert len(rows(several_rows_batch(151_936, row_tokens, num_rows=3))) >= 3


def test_the_model_has_the_shape_that_is_named() -> None:
    from transformers import Qwen2Config

    from mathsft.footprint import Dimensions

    shape = QWEN2_5_1_5B
    config = Qwen2Config(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_heads,
        vocab_size=shape.vocabulary_size,
    )
    sizes = Dimensions(config)
    assert sizes.num_matrix_weights / 1e9 == pytest.approx(1.543, abs=1e-3)
    # Which modes fit under which cap is what the part `memory` compares with a device.
    model = ModelSize(sizes.num_matrix_weights, 2 * sizes.num_matrix_weights, sizes)
    training = TrainingSettings(learning_rate=1e-5, batch_size=1, precision="bf16", token_budget_tokens=8192)
    whole = [min(fit.peak_bytes for fit in fits(model, training)) < 0.9 * cap_gb * 1e9 for cap_gb in CAPS_GB]
    assert whole[1:] == [True, True]


def test_each_part_has_its_own_process_except_in_a_smoke_run() -> None:
    names = [part.name for part in PARTS]
    full, smoke = (groups(PARTS, Context("cuda", Path(), is_smoke)) for is_smoke in (False, True))
    assert full == [[part] for part in PARTS]
    assert [part.name for group in smoke for part in group] == names
    assert len(smoke) == 4
    assert sum(part.limit_seconds for part in PARTS[:6]) > 470 // 2, "what trains has most of the time where vLLM is missing"


def test_trainers_and_engines_have_the_environment_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {part.name: environment(part, Context("cuda", Path(), False)) for part in PARTS}
    assert by_name["speed"]["PYTORCH_ALLOC_CONF"] == CUDA_TRAINER_ENV["PYTORCH_ALLOC_CONF"]
    assert by_name["engine"]["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert "PYTORCH_ALLOC_CONF" not in by_name["engine"], "a sleeping engine cannot use it"
    assert environment(PARTS[6], Context("cpu", Path(), True))["TORCHDYNAMO_DISABLE"] == "1"
    monkeypatch.setattr(device.metadata, "version", lambda name: "2.11.0")
    monkeypatch.setattr(device, "CUDA_TRAINER_ENV", {"PYTORCH_ALLOC_CONF": "expandable_segments:True,newer:1"})
    assert environment(PARTS[1], Context("cuda", Path(), False))["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_a_part_over_its_limit_is_ended_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late, other = start([ATTENTION, LENGTHS], Context("cpu", tmp_path, True), limit_seconds=0.05)
    assert late.error == "ended after its limit of 0 s"
    assert other.is_skipped and not other.error
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["part"] for line in printed] == ["attention", "lengths"]


@pytest.mark.slow
def test_a_part_that_raises_is_one_line_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, second = start([ATTENTION, LENGTHS], Context("cpu", tmp_path, True), limit_seconds=300)  # there is no model
    for result in (first, second):
        assert len(result.lines) == 1
        assert "Error" in result.error and "\n" not in result.error
    found = summary([first, second], 1.0)
    assert found["failed"].keys() == {"attention", "lengths"}
    assert found["skipped"] == []


def test_the_summary_has_the_figures_that_decide() -> None:
    speed = ({"part": "speed", "mode": "plain", "mfu": 0.5, "peak_over_predicted": 1.1, "seconds": 1.0},)
    lengths = tuple({"part": "lengths", "compiled": compiled} for compiled in (1, 1, 0))
    engine = ({"part": "engine", "skipped": "vLLM is not installed"},)
    results = [Result("speed", speed, 2.0), Result("lengths", lengths, 3.0), Result("engine", engine, 0.0)]
    assert summary(results, 5.04) == {
        "part": "summary",
        "seconds": 5.0,
        "failed": {},
        "skipped": ["engine"],
        "part_seconds": {"speed": 2.0, "lengths": 3.0, "engine": 0.0},
        "plain_mfu": 0.5,
        "plain_peak_over_predicted": 1.1,
        "compiled": 2,
    }


@pytest.mark.slow
def test_the_whole_bench_runs_on_a_cpu() -> None:
    command = [sys.executable, "-m", "bench.device", "--device", "cpu", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    machine, *_, last = lines
    assert machine["part"] == "machine" and "torch" in machine
    assert {line["part"] for line in lines[1:-1]} == {part.name for part in PARTS}
    assert last["part"] == "summary"
    assert (last["failed"], last["skipped"]) == ({}, ["resident"])
    assert last["tree_fp32_error"] < 1e-5
    assert last["again_other_weights_share"] == last["parked_other_weights_share"] == 0
    for kind in ("speed", "memory"):
        assert [line["mode"] for line in lines if line["part"] == kind] == [mode.name for mode in MODES]
    [cycle] = [line for line in lines if "cycle" in line]
    assert cycle["tokens_per_second"] > 0
