"""Studies in simulation: the product's search, pruner and rule against other ways to search, at equal device time.

    python -m bench.selection [--studies 12] [--processes 2] [--steplaw FOLDER] [--tinker FILE]

`bench.simulated_study` plays what ships: Search itself with the pruner of the quickstart, 20 trials, the confirm stage, with
one trainer and with four. `bench.search_peers` are the others; each spends the device time (training and scoring) that ours
with one trainer took. Naive is TPE that promotes the best score, with more trials or with more problems, whichever has the
lower regret in that family. Regret is the accuracy of the best setting minus that of the promoted one, over all seeds and
problems. Optimism is the announced accuracy minus that of the checkpoint over all problems. Coverage is how often the
announced 95 % interval holds the latter. Standard errors come from the bootstrap over studies; methods of one study stay
together.
"""

import argparse
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.measured_grids import add_step_law, add_tinker
from bench.processes import new_executor, start_bench
from bench.search_peers import NAIVE, PEERS
from bench.simulated_study import SimulatedStudy, simulate_study
from bench.surfaces import FAMILIES, MEASURED, ROUGH, SMOOTH
from bench.worlds import World
from mathsft.statistics.surface import SAME_SETTING, embed

NUM_BOOTSTRAPS = 1000
OURS, OURS_4, UNPRUNED = "ours", "ours, 4 trainers", "ours, no pruner"
RULES = {OURS: (1, True), OURS_4: (4, True), UNPRUNED: (1, False)}
"""Trainers, and whether the pruner is on."""


@dataclass(frozen=True)
class Outcome:
    """What a method made of one study; shares of all problems."""

    regret: float
    optimism: float
    device_time: float = 0.0
    train_time: float = 0.0
    is_covered: bool = False
    is_false_proof: bool = False
    """It announced that the winner beats a trial that is in truth no worse."""
    share_distinct: float = 1.0
    """Of the proposals of the surface: those that no earlier trial has tried."""


def simulate(study: tuple[str, int], steplaw: Path | None, tinker: Path | None) -> dict[str, Outcome]:
    """Return each method's outcome in the study of this family and seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    _add_measured(steplaw, tinker)
    family, seed = study
    world = World(family, seed)
    outcomes = {
        name: _outcome(world, simulate_study(world, seed, num_trainers, prunes=prunes))
        for name, (num_trainers, prunes) in RULES.items()
    }
    for name, peer in PEERS.items():
        found = peer(world, seed, outcomes[OURS].device_time)
        outcomes[name] = Outcome(world.best - found.winner.setting_accuracy, found.announced - found.winner.accuracy)
    return outcomes


def _add_measured(steplaw: Path | None, tinker: Path | None) -> None:
    if steplaw is not None:
        add_step_law(steplaw)
    if tinker is not None:
        add_tinker(tinker)


def _outcome(world: World, study: SimulatedStudy) -> Outcome:
    winner, announced = study.checkpoints[study.promotion.run], study.promotion.evidence
    return Outcome(
        regret=world.best - winner.setting_accuracy,
        optimism=announced["accuracy"] - winner.accuracy,
        device_time=study.device_time,
        train_time=study.train_time,
        is_covered=announced["low"] <= winner.accuracy <= announced["high"],
        is_false_proof=_is_false_proof(study),
        share_distinct=_share_distinct(world, study),
    )


def _is_false_proof(study: SimulatedStudy) -> bool:
    words = study.promotion.reason.split(" beats ")
    if len(words) == 1:
        return False
    beaten = "trial-" + words[1].split()[1]
    return study.checkpoints[study.promotion.run].accuracy <= study.checkpoints[beaten].accuracy


def _share_distinct(world: World, study: SimulatedStudy) -> float:
    points = embed(world.space, [run.overrides for run in study.trials.values()])
    first = len(points) - len(study.proposed)
    distances = (np.linalg.norm(points[:place] - points[place], axis=1).min() for place in range(first, len(points)))
    return fmean(bool(distance > SAME_SETTING) for distance in distances)


# ---- the figures


@dataclass(frozen=True)
class Studies:
    """The outcomes of many studies of some families, by method."""

    by_family: dict[str, dict[str, list[Outcome]]]

    def of(self, families: Iterable[str]) -> "Studies":
        return Studies({name: self.by_family[name] for name in families if name in self.by_family})

    def regrets(self, method: str) -> NDArray[np.float64]:
        """Return the regrets of a method (families x studies)."""
        return np.array([[outcome.regret for outcome in family[method]] for family in self.by_family.values()])

    def ratio(self, method: str, references: Sequence[str], upper: float | None = None) -> float:
        """Return the ratio of mean regrets, in each family to the best reference; or a quantile of it over bootstraps."""
        mine, others = self.regrets(method), np.array([self.regrets(name) for name in references])
        if upper is None:
            return float(mine.mean() / others.mean(axis=2).min(axis=0).mean())
        rng, samples = np.random.default_rng(0), []
        # The best reference of each family is chosen once: to choose it in each sample would favour the references.
        chosen = others[others.mean(axis=2).argmin(axis=0), np.arange(others.shape[1])]
        for _ in range(NUM_BOOTSTRAPS):
            places = rng.integers(0, mine.shape[1], mine.shape)
            samples.append(np.take_along_axis(mine, places, 1).mean() / np.take_along_axis(chosen, places, 1).mean())
        return float(np.quantile(samples, upper))

    def error(self, method: str, references: Sequence[str]) -> float:
        """Return the standard error of the ratio."""
        return (self.ratio(method, references, 0.84) - self.ratio(method, references, 0.16)) / 2

    def mean(self, method: str, figure: str) -> float:
        return fmean(float(getattr(one, figure)) for family in self.by_family.values() for one in family[method])


def result_line(studies: Studies) -> str:
    """Return the last line."""
    measured = studies.of(MEASURED)
    best_peer = min(PEERS, key=lambda name: studies.regrets(name).mean())
    naive_optimism = fmean(abs(studies.mean(name, "optimism")) for name in NAIVE[:1])
    figures = {
        "regret_ratio_smooth": studies.of(SMOOTH).ratio(OURS, NAIVE),
        "regret_ratio_rough": studies.of(ROUGH).ratio(OURS, NAIVE),
        "regret_ratio_measured": measured.ratio(OURS, NAIVE) if measured.by_family else None,
        "regret_ratio_quickstart": studies.of(["quickstart"]).ratio(OURS, NAIVE),
        "regret_ratio_4_trainers": studies.ratio(OURS_4, [OURS]),
        "best_peer": best_peer,
        "peer_ratio": studies.ratio(OURS, [best_peer]),
        "peer_ratio_upper": studies.ratio(OURS, [best_peer], 0.975),
        "pruner_training_saved": 1 - studies.mean(OURS, "train_time") / studies.mean(UNPRUNED, "train_time"),
        "pruner_regret_ratio": studies.ratio(OURS, [UNPRUNED]),
        "pruner_regret_ratio_upper": studies.ratio(OURS, [UNPRUNED], 0.975),
        "optimism_ratio": abs(studies.mean(OURS, "optimism")) / naive_optimism,
        "coverage": studies.mean(OURS, "is_covered"),
        "false_proofs": studies.mean(OURS, "is_false_proof"),
        "distinct_proposals": studies.mean(OURS, "share_distinct"),
        "distinct_proposals_4_trainers": studies.mean(OURS_4, "share_distinct"),
    }
    return json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()})


def _table(studies: Studies) -> Table:
    num_studies = len(next(iter(studies.by_family.values()))[OURS])
    table = Table(title=f"mean regret in points of accuracy, {num_studies} studies a family, equal device time")
    table.add_column("surface")
    for name in (*RULES, *PEERS):
        table.add_column(name, justify="right")
    table.add_column("to naive", justify="right")
    table.add_column("coverage", justify="right")
    for name, methods in studies.by_family.items():
        family = studies.of([name])
        regrets = [f"{100 * family.regrets(method).mean():.2f}" for method in (*RULES, *PEERS)]
        ratio = f"{family.ratio(OURS, NAIVE):.2f} ± {family.error(OURS, NAIVE):.2f}"
        table.add_row(name, *regrets, ratio, f"{fmean(one.is_covered for one in methods[OURS]):.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=12, help="simulated studies of each family (default: 12)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first one (default: 0)")
    parser.add_argument("--processes", type=int, default=2, help="processes that simulate (default: 2)")
    parser.add_argument("--steplaw", type=Path, help="clone of github.com/step-law/steplaw; adds its measured grids")
    parser.add_argument("--tinker", type=Path, help="Tinker's sft_sweep.md; adds its measured grids")
    parser.add_argument("--families", nargs="*", help="simulate these only")
    arguments = parser.parse_args()
    start_bench()
    # One thread a process: numpy's threads would fight for the cores. Child processes inherit it before they import numpy.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    _add_measured(arguments.steplaw, arguments.tinker)
    families = arguments.families or [*FAMILIES, *MEASURED]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.studies)
    planned = [(family, seed) for seed in seeds for family in families]
    with new_executor(arguments.processes) as executor:
        work = executor.map(partial(simulate, steplaw=arguments.steplaw, tinker=arguments.tinker), planned)
        found = list(track(work, "simulating", total=len(planned)))
    by_family: dict[str, dict[str, list[Outcome]]] = {}
    for (family, _), methods in zip(planned, found, strict=True):
        for method, outcome in methods.items():
            by_family.setdefault(family, {}).setdefault(method, []).append(outcome)
    studies = Studies(by_family)
    Console(width=190).print(_table(studies))
    print(result_line(studies))


if __name__ == "__main__":
    main()
