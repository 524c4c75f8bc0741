"""What a machine can do, as told by texts and libraries of machines that this one is not."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from mathsft.workers import machine
from mathsft.workers.machine import (
    CudaDevice,
    bf16_flags,
    cpu_vendor,
    detect_machine,
    device_refusal,
    driver_refusal,
    visible_cuda_devices,
)
from tests.build import make_machine

ZEN_3 = "processor\t: 0\nmodel name\t: AMD Ryzen 7 5800X\nflags\t\t: fpu sse4_2 avx avx2 fma\n\n"
ZEN_4 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\n"
SAPPHIRE_RAPIDS = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: avx2 avx512_bf16 amx_bf16 amx_tile\n\n"
NEOVERSE_V1 = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16 dgh\nCPU part\t: 0xd40\n\n"
CORTEX_A72 = "processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\nCPU part\t: 0xd08\n\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (ZEN_3 * 2, ()),
        (ZEN_4 * 2, ("avx512_bf16",)),
        (SAPPHIRE_RAPIDS, ("amx_bf16", "avx512_bf16")),
        (NEOVERSE_V1, ("bf16",)),
        (CORTEX_A72, ()),
        (ZEN_4 + ZEN_3, ()),  # a worker may be put on any core
        ("", ()),
    ],
)
def test_processors_that_multiply_bf16_are_known_by_their_flags(cpuinfo: str, expected: tuple[str, ...]) -> None:
    assert bf16_flags(cpuinfo) == expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n" * 2, "AuthenticAMD"),
        (NEOVERSE_V1, ""),
        ("", ""),
    ],
)
def test_the_vendor_of_an_x86_processor_is_read(cpuinfo: str, expected: str) -> None:
    assert cpu_vendor(cpuinfo) == expected


@pytest.mark.parametrize(
    ("cuda", "capability", "flags", "precision", "evidence"),
    [
        ((), None, ("avx512_bf16",), "bf16", "the CPU has avx512_bf16"),
        ((), None, (), "fp32", "the CPU has none of amx_bf16, avx512_bf16, bf16"),
        (("0", "1"), (8, 0), (), "bf16", "CUDA compute capability 8.0, native bf16 needs 8.0"),
        (("0",), (7, 5), ("avx512_bf16",), "fp32", "CUDA compute capability 7.5, native bf16 needs 8.0"),
        (("0",), None, (), "bf16", "CUDA compute capability unknown, native bf16 needs 8.0"),
    ],
)
def test_auto_is_bf16_where_what_trains_multiplies_it_natively(
    cuda: tuple[str, ...], capability: tuple[int, int] | None, flags: tuple[str, ...], precision: str, evidence: str
) -> None:
    found = make_machine(cuda=cuda, capability=capability, bf16_flags=flags)
    assert (found.auto_precision, found.bf16_evidence) == (precision, evidence)


@pytest.mark.parametrize(
    ("num_installed", "visible", "expected"),
    [
        (0, None, ()),
        (0, "0,1", ()),
        (2, None, ("0", "1")),
        (4, "2,3", ("2", "3")),
        (4, " 3 , 1", ("3", "1")),
        (4, "", ()),
        (4, "-1", ()),
        (4, "1,9,2", ("1",)),
        (4, "1,-1,2", ("1",)),
        (2, "GPU-1f,0", ("1", "0")),
        (2, "GPU-1f-23, GPU-0f", ("1", "0")),
        (2, "GPU-,0", ()),  # not unique
        (2, "GPU-8932f937,1", ()),
        (2, "MIG-1-2", ("MIG-1-2",)),
    ],
)
def test_visible_devices_are_those_that_cuda_shows(
    num_installed: int, visible: str | None, expected: tuple[str, ...]
) -> None:
    assert visible_cuda_devices([f"GPU-{index}f-23" for index in range(num_installed)], visible) == expected


@pytest.mark.parametrize(
    ("driver", "torch_version", "needed"),
    [
        ("580.65.06", "2.13.0", None),
        ("610.12", "2.13.0+cu130", None),
        ("575.57.08", "2.13.0", "CUDA 13) needs 580"),
        ("575.57.08", "2.13.0+cu129", None),
        ("470.256.02", "2.13.0+cu126", "CUDA 12) needs 525"),
        ("unknown", "2.13.0", None),
    ],
)
def test_a_driver_is_too_old_for_the_cuda_that_torch_was_built_with(
    driver: str, torch_version: str, needed: str | None
) -> None:
    refusal = driver_refusal(driver, torch_version)
    assert (needed or "") in refusal and bool(refusal) == bool(needed)
    assert not refusal or refusal.startswith(f"the NVIDIA driver is {driver}, and ")


@pytest.mark.parametrize(
    ("name", "capability", "is_split", "words"),
    [
        ("0", (7, 5), False, ""),
        ("0", None, False, ""),
        ("0", (7, 0), False, "CUDA device 0 has compute capability 7.0, and 7.5 is needed: name newer devices in CUDA_V"),
        (
            "1",
            (9, 0),
            True,
            "CUDA device 1 is split into instances of NVIDIA MIG, which mathsft does not use: switch ",
        ),
        ("MIG-1-2", None, False, "CUDA device MIG-1-2 is an instance of NVIDIA MIG, which mathsft does not use: switch "),
    ],
)
def test_a_device_that_cannot_be_used_says_why(
    name: str, capability: tuple[int, int] | None, is_split: bool, words: str
) -> None:
    refusal = device_refusal(name, capability, is_split=is_split)
    assert refusal.startswith(words) and bool(refusal) == bool(words)


class FakeNvmlError(Exception):
    pass


def fake_nvml(num_devices: int | None, driver: str = "580.65.06") -> SimpleNamespace:
    """Return NVML of a machine whose device 6 is split, whose device 7 reports nothing, and whose device 4 is old."""

    def init() -> None:
        if num_devices is None:
            raise FakeNvmlError("Driver Not Loaded")

    def capability(index: int) -> tuple[int, int]:
        if index == 7:
            raise FakeNvmlError("Not Supported")
        return (6, 1) if index == 4 else (9, index)

    def memory(index: int) -> SimpleNamespace:
        if index == 7:
            raise FakeNvmlError("Not Supported")
        return SimpleNamespace(total=80, free=70 + index, used=10 - index)

    return SimpleNamespace(
        nvmlSystemGetDriverVersion=lambda: driver,
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}",
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetMigMode=lambda index: [int(index == 6), 0],
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: num_devices,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCudaComputeCapability=capability,
        NVMLError=FakeNvmlError,
    )


@pytest.mark.parametrize(
    ("torch_version", "nvml", "expected"),
    [
        ("2.13.0+cpu", fake_nvml(8), ((), ())),
        ("2.13.0", fake_nvml(8), ((CudaDevice("5", (9, 5), 80, 75), CudaDevice("7", None)), ("split", "6.1"))),
        ("2.13.0", fake_nvml(8, "470.1"), ((), ("the NVIDIA driver is 470.1",))),
        ("2.13.0", fake_nvml(None), ((), ())),
        ("2.13.0", None, ((), ())),  # not installed
    ],
)
def test_detection(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    torch_version: str,
    nvml: SimpleNamespace | None,
    expected: tuple[tuple[CudaDevice, ...], tuple[str, ...]],
) -> None:
    (tmp_path / "cpuinfo").write_text(ZEN_4 * 4)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(metadata, "version", lambda name: torch_version)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,GPU-4,7")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {3, 1})
    found = detect_machine()
    cuda, refusals = expected
    assert (found.cpus, found.bf16_flags, found.cuda) == ((1, 3), ("avx512_bf16",), cuda)
    assert len(found.refused_devices) == len(refusals)
    assert all(words in line for words, line in zip(refusals, found.refused_devices, strict=True))
    assert found.free_memory_bytes > 0


def test_the_driver_imports_no_torch() -> None:
    code = (
        "import sys; from mathsft.workers import machine, placement, spawn, worker; machine.detect_machine(); "
        "sys.exit(bool({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
