"""Studies in simulation: the product's search, pruner and rule against other ways to search, at equal device time.

    python -m bench.selection [--studies 12] [--processes 2] [--steplaw FOLDER] [--tinker FILE] [--outcomes FILE]

`bench.simulated_study` plays what ships: Search itself with the pruner of the quickstart, 20 trials, the confirm stage, with
one trainer and with four. `bench.search_peers` are the others; each spends the device time (training and scoring) that ours
with one trainer took. Naive is TPE that promotes the best score, with more trials or with more problems, whichever has the
lower regret in that family. Regret is the accuracy of the best setting minus that of the promoted one, over all seeds and
problems. Optimism is the announced accuracy minus that of the checkpoint over all problems. Coverage is how often the
announced 95 % interval holds the latter. Standard errors come from the bootstrap over studies; methods of one study stay
together. The peers that take longest play one study in --slow-every; they are compared with ours in these studies alone.

--outcomes keeps each study's outcomes in a file. The same command continues there after it was ended, and `--studies 0`
makes the table of the studies in the file.
"""

import argparse
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.progress import track

from bench.measured_grids import add_step_law, add_tinker
from bench.processes import new_executor, start_bench
from bench.search_peers import NAIVE, PEERS, SLOW
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


def simulate(study: tuple[str, int], slow_every: int, steplaw: Path | None, tinker: Path | None) -> dict[str, Outcome]:
    """Return each method's outcome in the study of this family and seed; slow peers take part in some seeds only."""
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
        if name in SLOW and seed % slow_every:
            continue
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
    """The outcomes of many studies of some families: of each study, the outcome of each method that played it."""

    by_family: Mapping[str, Sequence[Mapping[str, Outcome]]]

    def of(self, families: Iterable[str]) -> "Studies":
        return Studies({name: self.by_family[name] for name in families if name in self.by_family})

    def with_all(self, methods: Iterable[str]) -> "Studies":
        """Return the studies that all these methods played, equally many of each family."""
        wanted = set(methods)
        found = {name: [one for one in studies if wanted <= set(one)] for name, studies in self.by_family.items()}
        num = min(map(len, found.values()))
        return Studies({name: studies[:num] for name, studies in found.items()})

    @property
    def num_studies(self) -> int:
        """Of each family."""
        return min(map(len, self.by_family.values()))

    def regrets(self, method: str) -> NDArray[np.float64]:
        """Return the regrets of a method (families x studies)."""
        return np.array([[one[method].regret for one in studies] for studies in self.by_family.values()])

    def difference(self, method: str, reference: str) -> tuple[float, float]:
        """Return the mean of a method's regret minus the reference's in the same studies, and its standard error."""
        shared = self.with_all([method, reference])
        differences = shared.regrets(method) - shared.regrets(reference)
        variances = differences.var(axis=1, ddof=1) if shared.num_studies > 1 else np.zeros(len(differences))
        return float(differences.mean()), float(np.sqrt(variances.sum() / shared.num_studies) / len(variances))

    def ratio(self, method: str, references: Sequence[str]) -> "Ratio":
        """Return the ratio of a method's mean regret to that of the best reference, which is chosen in each family."""
        shared = self.with_all([method, *references])
        mine, others = shared.regrets(method), np.array([shared.regrets(name) for name in references])
        # The best reference of each family is chosen once: to choose it in each sample would favour the references.
        chosen = others[others.mean(axis=2).argmin(axis=0), np.arange(others.shape[1])]
        rng, samples = np.random.default_rng(0), []
        for _ in range(NUM_BOOTSTRAPS):
            places = rng.integers(0, mine.shape[1], mine.shape)
            samples.append(np.take_along_axis(mine, places, 1).mean() / np.take_along_axis(chosen, places, 1).mean())
        low, high, upper = np.quantile(samples, [0.16, 0.84, 0.975]).tolist()
        return Ratio(float(mine.mean() / chosen.mean()), (high - low) / 2, upper)

    def mean(self, method: str, figure: str) -> float:
        return fmean(float(getattr(one[method], figure)) for studies in self.by_family.values() for one in studies)


@dataclass(frozen=True)
class Ratio:
    """A ratio of mean regrets over the same studies, from the bootstrap over studies of each family."""

    value: float
    error: float
    """Standard error."""
    upper: float
    """Upper end of the 95 % interval."""


def result_line(studies: Studies) -> str:
    """Return the last line."""
    families = {"smooth": SMOOTH, "rough": ROUGH, "measured": MEASURED, "quickstart": ["quickstart"]}
    ratios: dict[str, Ratio | None] = {"regret_ratio_4_trainers": studies.ratio(OURS_4, [OURS])}
    for name, members in families.items():
        group = studies.of(members)
        ratios[f"regret_ratio_{name}"] = group.ratio(OURS, NAIVE) if group.by_family else None
    played = studies.with_all([OURS, *PEERS])
    best_peer = min(PEERS, key=lambda name: played.regrets(name).mean())
    peer, pruner = studies.ratio(OURS, [best_peer]), studies.ratio(OURS, [UNPRUNED])
    figures = {
        "studies": studies.num_studies,
        "studies_of_slow_peers": played.num_studies,
        **{name: ratio and ratio.value for name, ratio in ratios.items()},
        **{f"{name}_error": ratio and ratio.error for name, ratio in ratios.items()},
        "best_peer": best_peer,
        "peer_ratio": peer.value,
        "peer_ratio_upper": peer.upper,
        "pruner_training_saved": 1 - studies.mean(OURS, "train_time") / studies.mean(UNPRUNED, "train_time"),
        "pruner_regret_ratio": pruner.value,
        "pruner_regret_ratio_upper": pruner.upper,
        "optimism_ratio": abs(studies.mean(OURS, "optimism")) / abs(studies.mean(NAIVE[0], "optimism")),
        "coverage": studies.mean(OURS, "is_covered"),
        "false_proofs": studies.mean(OURS, "is_false_proof"),
        "distinct_proposals": studies.mean(OURS, "share_distinct"),
        "distinct_proposals_4_trainers": studies.mean(OURS_4, "share_distinct"),
    }
    return json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()})


def table_of_regrets(studies: Studies) -> str:
    """Return the mean regrets in points by family as Markdown; other methods with their paired difference from ours."""
    methods = [name for name in (*RULES, *PEERS) if name != OURS]
    rows = []
    for family in [*studies.by_family, *(["all"] if len(studies.by_family) > 1 else [])]:
        group = studies if family == "all" else studies.of([family])
        ratio = group.ratio(OURS, NAIVE)
        cells = [f"{100 * group.regrets(OURS).mean():.2f}"]
        for method in methods:
            mean, (more, error) = group.with_all([method]).regrets(method).mean(), group.difference(method, OURS)
            cells.append(f"{100 * mean:.2f} ({100 * more:+.2f} ± {100 * error:.2f})")
        coverage = f"{group.mean(OURS, 'is_covered'):.1%}"
        saved = 1 - group.mean(OURS, "train_time") / group.mean(UNPRUNED, "train_time")
        rows.append([family, *cells, f"{ratio.value:.2f} ± {ratio.error:.2f}", coverage, f"{saved:.0%}"])
    headers = ["surface", OURS, *methods, "to naive", "coverage", "training saved"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headers, ["---", *["---:"] * (len(headers) - 1)], *rows))


# ---- the command


def play(planned: Sequence[tuple[str, int]], arguments: argparse.Namespace) -> Iterator[tuple[str, Mapping[str, Outcome]]]:
    """Yield family and outcomes of each recorded and each planned study; record the latter."""
    path, done = arguments.outcomes, set()
    for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []:
        record = json.loads(line)
        done.add((record["family"], record["seed"]))
        yield record["family"], {name: Outcome(**outcome) for name, outcome in record["outcomes"].items()}
    left = [study for study in planned if study not in done]
    simulated = partial(simulate, slow_every=arguments.slow_every, steplaw=arguments.steplaw, tinker=arguments.tinker)
    with new_executor(arguments.processes) as executor:
        for (family, seed), outcomes in zip(left, executor.map(simulated, left), strict=True):
            if path is not None:
                named = {name: asdict(outcome) for name, outcome in outcomes.items()}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"family": family, "seed": seed, "outcomes": named}) + "\n")
            yield family, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=12, help="simulated studies of each family (default: 12)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first one (default: 0)")
    parser.add_argument("--slow-every", type=int, default=8, help="slow peers play seeds divisible by this (default: 8)")
    parser.add_argument("--processes", type=int, default=2, help="processes that simulate (default: 2)")
    parser.add_argument("--steplaw", type=Path, help="clone of github.com/step-law/steplaw; adds its measured grids")
    parser.add_argument("--tinker", type=Path, help="Tinker's sft_sweep.md; adds its measured grids")
    parser.add_argument("--outcomes", type=Path, help="file of JSON lines that keeps the outcomes of all studies")
    parser.add_argument("--families", nargs="*", help="simulate these only")
    arguments = parser.parse_args()
    start_bench()
    # One thread a process: numpy's threads would fight for the cores. Child processes inherit it before they import numpy.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    _add_measured(arguments.steplaw, arguments.tinker)
    families = arguments.families or [*FAMILIES, *MEASURED]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.studies)
    planned = [(family, seed) for seed in seeds for family in families]
    by_family: dict[str, list[Mapping[str, Outcome]]] = {}
    for family, outcomes in track(play(planned, arguments), "simulating", total=len(planned)):
        by_family.setdefault(family, []).append(outcomes)
    studies = Studies(by_family).with_all(RULES)
    print(f"Regret in points (and its difference from ours), {studies.num_studies} studies a family, equal device time:\n")
    print(table_of_regrets(studies))
    print(result_line(studies))


if __name__ == "__main__":
    main()
