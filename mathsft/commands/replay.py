"""mathsft replay: trains a recorded run again and compares losses, weights and responses with the record."""

import argparse
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from mathsft.commands.backends import nodes_of, opened_backend
from mathsft.commands.common import log_to, placement_for, run_to_end, with_local_model
from mathsft.commands.opening import open_console
from mathsft.commands.show import find_run
from mathsft.commands.stores import named_layout, store_to_read
from mathsft.config.study_schema import LimitSettings
from mathsft.data.pools import load_pools
from mathsft.errors import FAILED, OK, UserError
from mathsft.layout import StudyLayout
from mathsft.records import Run
from mathsft.reporting.table import Part, Table, percent
from mathsft.runs.context import StudyContext
from mathsft.runs.provenance import ProvenanceRecorder, changes
from mathsft.runs.replay_run import PROMISES, Comparison, replay
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.tracking.live import LiveProgress
from mathsft.workers.cluster_placement import common_machine
from mathsft.workers.machine import detect_machine


def run(arguments: argparse.Namespace) -> int:
    """Replay a run in a temporary folder inside the study's folder, and print the comparison."""
    console = open_console()
    with (
        Heartbeat(console) as heartbeat,
        opened_backend(arguments, heartbeat) as backend,
        heartbeat.during("preparing"),
        store_to_read(arguments.study, arguments.storage) as recorded,
    ):
        run = find_run(recorded, arguments.run)
        provenance = recorded.provenance(run.name)
        if run.state in ("running", "failed") or provenance is None:
            raise UserError(f"{run.name} cannot be replayed: it is {run.state}; choose an ended run that has a provenance")
        local = with_local_model(run.experiment, heartbeat)
        folder = named_layout(arguments.study).root
        folder.mkdir(parents=True, exist_ok=True)  # it may be missing where the records are on a server
        # The store of the replay is apart, because nodes of a cluster may share the study's folder.
        with TemporaryDirectory(prefix=f"replay-{run.name}-", dir=folder) as scratch, TemporaryDirectory() as own:
            layout = StudyLayout(Path(scratch))
            backend.share(layout)
            log_to(layout.log("driver"))
            # Placed as a final run, because a replay needs one trainer. A different number of ranks rounds sums differently.
            nodes = nodes_of(backend)
            machine = common_machine(nodes) if nodes else detect_machine()
            costs = [checkpoint.costs for checkpoint in recorded.checkpoints(run.name)]
            num_ranks = max((cost.num_ranks for cost in costs), default=1)
            ranks = min(num_ranks, max(1, len(machine.cuda) - 1)) if machine.cuda else num_ranks
            placement = placement_for(machine, local, layout, "final", ranks, nodes)
            console.print(f"Replaying {run.name} of study {recorded.study}; {placement.description}")
            console.print(PROMISES[placement.trainers[0].settings.worker_device.device])
            with closing(StudyStore.open(StudyLayout(Path(own)).database_url, recorded.study)) as store:
                pools = load_pools(local.data, local.task)
                store.observers.append(ProvenanceRecorder(store, Path(local.model.path), pools, placement.description))
                with (
                    LiveProgress(heartbeat, store, 1) as live,
                    StudyWorkers.started(placement, LimitSettings(), backend) as workers,
                ):
                    store.observers.append(live)
                    compared = run_to_end(replay(run, recorded, StudyContext(store, workers, layout, run.experiment)))
                replayed = store.provenance(run.name)
    differing = changes(provenance, replayed) if replayed is not None else []
    return _conclude(run, compared, differing, console)


def _conclude(run: Run, compared: Comparison, differing: list[str], console: Console) -> int:
    console.print(_table(compared).terminal())
    if differing:
        console.print("Differences from the recorded provenance:", *(f"  {line}" for line in differing), sep="\n")
    if compared.agrees:
        console.print(f"{run.name} agrees to the bit: {compared.num_steps} losses, all weights and all responses.")
        return OK
    where = f", losses from step {compared.other_steps[0]} on" if compared.other_steps else ""
    console.print(
        f"{run.name} does not agree to the bit{where}: {compared.shares}. The replay is {compared.replayed_state}, the "
        f"recorded run is {compared.state}."
    )
    return FAILED


def _table(compared: Comparison) -> Table:
    headers = ("step", "recorded accuracy", "replayed accuracy", "weights", "responses that differ")
    rows = (
        (
            score.recorded.step,
            *map(percent, (score.recorded.accuracy, score.replayed.accuracy)),
            "equal" if score.has_same_weights else "different",
            Part(score.num_other_responses, score.num_responses),
        )
        for score in compared.scores
    )
    return Table.of(headers, rows)
