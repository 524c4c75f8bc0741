"""Predicts a study's time, disk and memory on this machine, from its own trials or else from a short measurement."""

from dataclasses import dataclass
from pathlib import Path

from mathsft.accounting import forecast, study_costs
from mathsft.accounting.measure import NotMeasuredError, measured_speeds
from mathsft.commands.common import checked_data, run_to_end, with_local_model
from mathsft.commands.opening import CommandContext
from mathsft.commands.planned_workers import planned_workers
from mathsft.config.schema import Experiment
from mathsft.data.pools import Pools
from mathsft.records import Quality
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.placement import Placement


@dataclass(frozen=True)
class Prediction:
    """What the rest of a study and its final run are predicted to need."""

    experiment: Experiment
    """Its model is a local folder."""
    placement: Placement
    time: forecast.StudyTime
    final_seconds: float
    footprint: forecast.Footprint
    basis: str
    """What the predicted times are based on, in words."""
    quality: Quality


def predicted(context: CommandContext, store: StudyStore | None) -> Prediction:
    """Predict what the study needs on this machine; its precision is already resolved."""
    machine, layout, config = context.machine, context.layout, context.loaded.study
    experiment = with_local_model(context.loaded.experiment, context.heartbeat)
    data = checked_data(experiment, machine)
    pools, num_samples = data.pools, experiment.evaluation.num_samples
    size = forecast.model_size(Path(experiment.model.path))
    placement = planned_workers(machine, config, experiment, size, layout, "study", store, context.nodes)
    final_placement = planned_workers(machine, config, experiment, size, layout, "final", store, context.nodes)
    costs, basis = _costs(context, experiment, placement.trainers[0], pools, store)
    num_validation, num_test = (len(pools[name]) * num_samples for name in ("validation", "test"))
    worker_device = placement.evaluators[0].settings.worker_device
    return Prediction(
        experiment=experiment,
        placement=placement,
        time=forecast.study_time(forecast.work_left(config, len(pools["confirm"]), num_samples, store), costs, placement),
        final_seconds=forecast.final_seconds(config.final, costs, final_placement, num_validation, num_test),
        footprint=forecast.footprint(
            config, experiment, Path(experiment.model.path), worker_device, len(placement.trainers)
        ),
        basis=basis,
        quality=data.quality,
    )


def _costs(
    context: CommandContext, experiment: Experiment, trainer: WorkerSpec, pools: Pools, store: StudyStore | None
) -> tuple[study_costs.MeanCosts, str]:
    """Return the costs of the study's parts, and what they are based on, in words; the experiment's model is local."""
    if store is not None and (past := study_costs.past_costs(store)):
        return past, "this study's own trials"
    config, heartbeat, num_search = context.loaded.study, context.heartbeat, len(pools["search"])
    num_at_once = min(study_costs.MAX_CONCURRENT_RESPONSES, num_search * experiment.evaluation.num_samples)
    heartbeat.console.print(
        "Measuring the speed of training and generating on this machine: a few steps and forward passes, about ten seconds"
    )
    try:
        with heartbeat.during("measuring"):
            speeds = run_to_end(
                measured_speeds(
                    trainer, pools["train"], study_costs.batch_sizes(config, experiment), num_at_once, context.backend
                )
            )
        basis = (
            f"a measurement just now: training takes {speeds.step_seconds * 1e3:,.1f} ms per step plus "
            f"{speeds.example_seconds * 1e3:,.1f} ms per example, generating takes "
            f"{speeds.decoded_token_seconds * 1e3:,.2f} ms per token plus the overhead of vLLM"
        )
    except NotMeasuredError as error:
        num_parameters = forecast.model_size(Path(experiment.model.path)).num_parameters
        speeds = study_costs.assumed_speeds(num_parameters, experiment, pools["train"], trainer.settings.worker_device)
        basis = f"a guess from the model's size and an assumed speed: measuring failed ({error})"
    return study_costs.expected_costs(config, experiment, speeds, num_search), basis
