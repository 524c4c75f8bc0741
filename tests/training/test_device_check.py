"""What the doctor asks of the trainer's device, on the CPU."""

import asyncio
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from mathsft.commands.common import placement_for
from mathsft.config.study_schema import LimitSettings
from mathsft.layout import StudyLayout
from mathsft.runs.worker_checks import DEVICE_CHECK, MAX_ATTENTION_ERROR, check_experiment
from mathsft.training.batching.microbatches import MicroBatch
from mathsft.training.device_check import DeviceCheck
from mathsft.training.model import attention as attention_module
from mathsft.worker_settings import WorkerSettings
from mathsft.workers.worker import Device, Worker
from tests.build import make_machine


def settings(folder: Path, attention: str = "tree") -> WorkerSettings:
    placement = placement_for(make_machine(), check_experiment("fp32"), StudyLayout(folder), "study")
    placed = placement.trainers[0].settings
    return replace(placed, worker_device=replace(placed.worker_device, attention=attention))


flex_module = sys.modules[flex_attention.__module__]  # the package has a function of the same name


@pytest.fixture
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have flex_attention compute on a CPU: without a compiler, and with a gradient, which torch refuses there."""
    monkeypatch.setattr(attention_module, "_compiled_flex", lambda: flex_attention)
    monkeypatch.setattr(flex_module, "_validate_device", lambda *tensors: None)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attention", ["tree", "flex"])
def test_packed_attention_is_that_of_padded_rows(attention: str, tmp_path: Path, flex_on_cpu: None) -> None:
    assert DeviceCheck(settings(tmp_path, attention)).attention_error() < MAX_ATTENTION_ERROR["fp32"] / 10


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_wrong_mask_is_seen(tmp_path: Path, flex_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(row: MicroBatch) -> MicroBatch:
        length = row.ids_BT.shape[1]
        mask = create_block_mask(lambda b, h, query, key: key <= query, None, None, length, length, device="cpu")
        return replace(row, block_mask=mask)

    monkeypatch.setattr(attention_module, "with_block_masks", lambda rows: [causal(row) for row in rows])
    assert DeviceCheck(settings(tmp_path, "flex")).attention_error() > MAX_ATTENTION_ERROR["bf16"]


def test_a_model_that_cannot_be_packed_is_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "_reason_against_packing", lambda model: "it uses sliding windows")
    with pytest.raises(RuntimeError, match="eager"):
        DeviceCheck(settings(tmp_path)).attention_error()


@pytest.mark.slow
def test_ranks_gather_their_tensors(tmp_path: Path) -> None:
    placement = placement_for(make_machine(), check_experiment("fp32"), StudyLayout(tmp_path), "final", 2)
    spec = replace(placement.trainers[0], target=DEVICE_CHECK)
    with closing(Worker(spec, "ranks", Device(), LimitSettings())) as worker:
        assert asyncio.run(worker.call("gather_from_ranks")) == 2
