"""Placement for machines that this one is not."""

from pathlib import Path
from typing import Literal

import pytest

from mathsft.config.schema import Experiment, Scalar
from mathsft.config.study_schema import Choices
from mathsft.errors import UserError
from mathsft.footprint import ModelSize
from mathsft.layout import StudyLayout
from mathsft.worker_settings import WorkerDevice
from mathsft.workers.placement import PACKED_FROM_WIDTH, Placement, engine_dtype, place
from tests.build import GIB, make_experiment, make_machine

STUDY_DIR = StudyLayout(Path("studies/demo"))


@pytest.mark.parametrize("purpose", ["study", "final"])
def test_where_memory_is_short_training_and_scoring_alternate_and_the_evaluator_ends_between(
    experiment: Experiment, purpose: Literal["study", "final"]
) -> None:
    placement = place(make_machine((0, 1), ()), experiment, STUDY_DIR, purpose, memory_is_short=True)
    [trainer] = placement.trainers
    assert placement.evaluators[0].device == trainer.device
    assert (trainer.ends_when_parked, placement.evaluators[0].ends_when_parked) == (False, True)
    assert placement.max_unscored == 1
    assert "in turns" in placement.description
    on_cuda = make_machine((0, 1), ("0", "1"))
    assert place(on_cuda, experiment, STUDY_DIR, purpose, memory_is_short=True) == place(
        on_cuda, experiment, STUDY_DIR, purpose
    )


@pytest.mark.parametrize(
    ("cpus", "trainer_cpus", "evaluator_cpus"),
    [((0,), (0,), (0,)), ((0, 1), (0,), (1,)), ((2, 3, 5), (2, 3), (5,)), (tuple(range(8)), (0, 1, 2, 3), (4, 5, 6, 7))],
)
def test_without_a_gpu_trainer_and_evaluator_have_their_own_cores(
    experiment: Experiment, cpus: tuple[int, ...], trainer_cpus: tuple[int, ...], evaluator_cpus: tuple[int, ...]
) -> None:
    placed = place(make_machine(cpus, ()), experiment, STUDY_DIR, "study")
    (trainer,), evaluator = placed.trainers, placed.evaluators[0]
    assert (trainer.cpus, evaluator.cpus) == (trainer_cpus, evaluator_cpus)
    assert trainer.device != evaluator.device  # at work at the same time
    for spec in (trainer, evaluator):
        assert spec.env["OMP_NUM_THREADS"] == str(len(spec.cpus)) == str(spec.settings.worker_device.num_threads)
        assert "CUDA_VISIBLE_DEVICES" not in spec.env
        hardware = spec.settings.worker_device
        assert (hardware.device, hardware.attention, hardware.engine_dtype) == ("cpu", "tree", "float32")
        assert not hardware.sleep_mode
    assert evaluator.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert evaluator.env["TORCHDYNAMO_DISABLE"] == "1"
    assert not any(name.startswith("VLLM") for name in trainer.env)


def test_on_one_gpu_they_take_turns(experiment: Experiment) -> None:
    for purpose in ("study", "final"):
        placed = place(make_machine((0, 1, 2, 3), ("6",)), experiment, STUDY_DIR, purpose)
        (trainer,), evaluator = placed.trainers, placed.evaluators[0]
        assert trainer.device == evaluator.device
        assert trainer.env["CUDA_VISIBLE_DEVICES"] == evaluator.env["CUDA_VISIBLE_DEVICES"] == "6"
        assert evaluator.settings.worker_device.sleep_mode
        assert evaluator.settings.worker_device.engine_memory_share < experiment.evaluation.memory_share
        assert placed.max_unscored == 1


def test_on_two_gpus_each_has_its_own(experiment: Experiment) -> None:
    placed = place(make_machine((0, 1), ("5", "2")), experiment, STUDY_DIR, "study")
    (trainer,), evaluator = placed.trainers, placed.evaluators[0]
    assert (trainer.env["CUDA_VISIBLE_DEVICES"], evaluator.env["CUDA_VISIBLE_DEVICES"]) == ("5", "2")
    assert (trainer.device, evaluator.device) == ("cuda:0", "cuda:1")
    hardware = evaluator.settings.worker_device
    assert (hardware.device, hardware.attention, hardware.engine_dtype) == ("cuda", "flex", "bfloat16")
    assert (hardware.engine_memory_share, hardware.sleep_mode) == (experiment.evaluation.memory_share, False)
    assert "TORCHDYNAMO_DISABLE" not in evaluator.env
    assert evaluator.env["VLLM_USE_V2_MODEL_RUNNER"] == "0"


def test_many_gpus_train_as_many_trials_of_a_study_or_one_final_run_in_ranks(experiment: Experiment) -> None:
    machine = make_machine(tuple(range(16)), ("0", "1", "2", "3"))
    study, final = (place(machine, experiment, STUDY_DIR, purpose) for purpose in ("study", "final"))
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in study.trainers] == ["0", "1", "2"]
    assert [spec.ranks for spec in study.trainers] == [1, 1, 1]
    (trainer,) = final.trainers
    assert (trainer.ranks, trainer.env["CUDA_VISIBLE_DEVICES"], final.num_training) == (3, "0,1,2", 3)
    assert study.evaluators[0].env["CUDA_VISIBLE_DEVICES"] == final.evaluators[0].env["CUDA_VISIBLE_DEVICES"] == "3"
    assert study.trainers[0].settings.worker_device.num_threads == 4
    assert len({spec.device for spec in (*study.trainers, *study.evaluators)}) == 4
    # As NVML numbers devices: CUDA's default puts the fastest first.
    assert {spec.env["CUDA_DEVICE_ORDER"] for spec in (*study.trainers, *study.evaluators, trainer)} == {"PCI_BUS_ID"}


def test_ranks_are_as_many_as_asked_for_or_the_mistake_is_named(experiment: Experiment) -> None:
    def final(cpus: int, cuda: int, ranks: int | None) -> Placement:
        machine = make_machine(tuple(range(cpus)), tuple(map(str, range(cuda))))
        return place(machine, experiment, STUDY_DIR, "final", ranks)

    assert [final(16, 4, ranks).trainers[0].ranks for ranks in (None, 1, 2)] == [3, 1, 2]
    assert final(16, 4, 2).description == "CUDA devices: 0, 1 for training in 2 ranks, 3 for scoring; not used: 2"
    assert final(16, 2, None).trainers[0].env["CUDA_VISIBLE_DEVICES"] == "0"
    on_cpu = final(8, 0, 2).trainers[0]
    assert (on_cpu.ranks, on_cpu.settings.worker_device.num_threads, on_cpu.env["OMP_NUM_THREADS"]) == (2, 2, "2")
    assert final(2, 0, None).trainers[0].ranks == 1
    with pytest.raises(
        UserError, match=r"final\.ranks: 4, but 4 CUDA devices have room for 3 beside the evaluator; lower it"
    ):
        final(16, 4, 4)


@pytest.mark.parametrize("cuda", [(), ("0", "1"), ("0", "1", "2")])
def test_training_runs_one_checkpoint_ahead_in_a_study_and_freely_in_a_final_run(
    experiment: Experiment, cuda: tuple[str, ...]
) -> None:
    assert place(make_machine((0, 1), cuda), experiment, STUDY_DIR, "study").max_unscored == 2
    assert place(make_machine((0, 1), cuda), experiment, STUDY_DIR, "final").max_unscored > 10_000


def engine_hardware(experiment: Experiment, cuda: tuple[str, ...], precision: str) -> WorkerDevice:
    evaluation = experiment.evaluation.model_copy(update={"precision": precision})
    asked = experiment.model_copy(update={"evaluation": evaluation})
    return place(make_machine((0, 1), cuda), asked, STUDY_DIR, "study").evaluators[0].settings.worker_device


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
@pytest.mark.parametrize("cuda", [(), ("0",)])
def test_precision_is_the_users_where_given(
    experiment: Experiment, precision: str, dtype: str, cuda: tuple[str, ...]
) -> None:
    assert engine_hardware(experiment, cuda, precision).engine_dtype == dtype


@pytest.mark.parametrize(
    ("cuda", "precision", "width"),
    [((), "fp32", PACKED_FROM_WIDTH), ((), "bf16", 0), (("0",), "fp32", 0), (("0",), "bf16", 0)],
)
def test_weights_stay_as_they_are_only_where_packing_gains_nothing(
    experiment: Experiment, cuda: tuple[str, ...], precision: str, width: int
) -> None:
    assert engine_hardware(experiment, cuda, precision).packs_from_width == width


@pytest.mark.parametrize(
    ("vendor", "cuda", "expected"),
    [("AuthenticAMD", (), True), ("GenuineIntel", (), False), ("", (), False), ("AuthenticAMD", ("0",), False)],
)
def test_numpy_multiplies_where_the_products_of_torch_are_slow(
    experiment: Experiment, vendor: str, cuda: tuple[str, ...], expected: bool
) -> None:
    placed = place(make_machine((0, 1), cuda, cpu_vendor=vendor), experiment, STUDY_DIR, "study")
    assert placed.trainers[0].settings.worker_device.numpy_products == expected


def test_only_trainers_on_cuda_get_segments_that_expand(experiment: Experiment) -> None:
    for cuda in ((), ("0",), ("0", "1"), ("0", "1", "2")):
        placed = place(make_machine((0, 1), cuda), experiment, STUDY_DIR, "final")
        found = [spec.env.get("PYTORCH_ALLOC_CONF") for spec in (*placed.trainers, *placed.evaluators)]
        expected = "expandable_segments:True,pinned_max_cached_size_mb:64" if cuda else None
        assert found == [expected, None], "vLLM sleeps with an allocator of its own"


def test_an_engine_is_in_bf16_only_on_devices_that_multiply_it(experiment: Experiment) -> None:
    def dtype(capability: tuple[int, int], precision: str) -> str:
        evaluation = experiment.evaluation.model_copy(update={"precision": precision})
        return engine_dtype(evaluation, make_machine(cuda=("0",), capability=capability))

    assert [dtype((8, 0), "auto"), dtype((7, 5), "auto"), dtype((7, 5), "fp32")] == ["bfloat16", "float32", "float32"]
    with pytest.raises(UserError, match=r"evaluation\.precision: bf16, but .* capability 7\.5, .*; set it to fp32 or auto"):
        dtype((7, 5), "bf16")


def test_devices_that_cannot_be_used_are_named(experiment: Experiment) -> None:
    old = "CUDA device 1 has compute capability 6.1, and 7.5 is needed"
    beside = place(make_machine((0, 1), ("0",), refused_devices=(old,)), experiment, STUDY_DIR, "study")
    assert beside.description == f"CUDA device 0: training and scoring take turns; not used: {old}"
    with pytest.raises(UserError, match=r"^CUDA device 1 has compute capability 6\.1, and 7\.5 is needed$"):
        place(make_machine((0, 1), (), refused_devices=(old,)), experiment, STUDY_DIR, "study")


def test_description_names_the_devices(experiment: Experiment) -> None:
    def description(cpus: tuple[int, ...], cuda: tuple[str, ...]) -> str:
        return place(make_machine(cpus, cuda), experiment, STUDY_DIR, "study").description

    assert description((0, 1), ()) == "no CUDA device: core 0 for training, core 1 for scoring"
    assert description((0,), ("4",)) == "CUDA device 4: training and scoring take turns"
    assert description((0,), ("0", "1", "2")) == "CUDA devices: 0, 1 for training, 2 for scoring"


@pytest.mark.parametrize(
    ("cuda", "settings", "search", "methods", "max_request_rank"),
    [
        ((), {"method": "lora"}, {}, ("lora",), 0),  # requests cost twice on a CPU: adapters are merged
        (("0", "1"), {}, {}, ("full",), 0),
        (("0", "1"), {"method": "lora", "lora": {"rank": 32}}, {}, ("lora",), 32),
        (("0", "1"), {"method": "lora"}, {"training.lora.rank": (8, 64)}, ("lora",), 64),
        (("0", "1"), {"method": "lora"}, {"training.lora.dora": (False, True)}, ("lora",), 0),
        (("0", "1"), {}, {"training.method": ("full", "lora")}, ("full", "lora"), 0),
    ],
)
def test_adapters_are_requests_on_cuda_where_vllm_can_serve_all_checkpoints_so(
    cuda: tuple[str, ...],
    settings: dict[str, object],
    search: dict[str, tuple[Scalar, ...]],
    methods: tuple[str, ...],
    max_request_rank: int,
) -> None:
    space = {name: Choices(type="categorical", choices=choices) for name, choices in search.items()}
    placement = place(make_machine(cuda=cuda), make_experiment(**settings), STUDY_DIR, "study", search=space)
    for spec in (*placement.trainers, *placement.evaluators):
        assert spec.settings.methods == methods
        assert spec.settings.worker_device.max_request_rank == max_request_rank


def test_memory_is_planned_for_the_method_that_needs_the_most() -> None:
    model = ModelSize(int(3e9), int(6e9), None)
    machine = make_machine(tuple(range(16)), ("0", "1"), device_gb=24, free_memory_bytes=200 * GIB)
    alone = place(machine, make_experiment(method="lora"), STUDY_DIR, "study", model=model)
    assert alone.num_training == 1
    both = {"training.method": Choices(type="categorical", choices=("full", "lora"))}
    with pytest.raises(UserError, match=r"training a model of 3.00 B parameters needs"):
        place(machine, make_experiment(method="lora"), STUDY_DIR, "study", model=model, search=both)
