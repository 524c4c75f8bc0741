"""Simulates studies: the rule of `mathsft.study.decide` against promoting the best score, at equal numbers of responses.

    python -m bench.selection [--studies 40] [--processes 2]

Optuna's TPESampler searches simulated surfaces with the quickstart's ranges. Trials differ by their seeds and problems by
their difficulty; all trials are scored on the same problems. "ours" runs 20 trials on 200 problems, the last of them with
the settings that `propose` returns, and then the confirm stage. "naive" promotes the best score; it spends the cost of the
confirm stage on more trials or on more search problems, whichever has the lower regret in the family of surfaces.

Regret is the accuracy of the best setting minus that of the promoted setting, both over all seeds and problems; no choice
among the trials has a lower regret than the best trial. Optimism is the announced accuracy minus the checkpoint's accuracy
over all problems. Coverage is the share of announced 95 % intervals that contain this accuracy. Values behind ± and in keys
that end in _error are standard errors by the bootstrap over studies.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import optuna
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.processes import new_executor, start_bench
from bench.surfaces import FAMILIES, NUM_CONFIRM, NUM_SEARCH, ROUGH, SMOOTH, SPACE, Trained, World
from mathsft.config.schema import Scalar, SelectionSettings
from mathsft.records import Promotion
from mathsft.runs.contest import Rule
from mathsft.study.components import distribution
from mathsft.study.decide import decide, propose

NUM_TRIALS = 20
RULE = Rule(SPACE, SelectionSettings(), NUM_CONFIRM)
CONFIRM_COST = 9 * 125 + 5 * 250 + 3 * 500
"""Responses of the confirm stage, with trial 0 beside the finalists; naive gets as many in addition to the search."""
MORE_TRIALS = NUM_TRIALS + -(-CONFIRM_COST // NUM_SEARCH)
MORE_PROBLEMS = NUM_SEARCH + -(-CONFIRM_COST // NUM_TRIALS)

NUM_BOOTSTRAPS = 200

OURS, NAIVE_TRIALS, NAIVE_PROBLEMS = "ours", f"{MORE_TRIALS} trials", f"{MORE_PROBLEMS} problems"


@dataclass(frozen=True)
class Outcome:
    """The result of a rule in one study; accuracies are shares of all problems."""

    regret: float
    optimism: float
    covered: bool = False
    best_trial_regret: float = 0.0
    """The regret of promoting the best of the study's trials."""
    false_proof: bool = False
    """The rule announced that the winner beats a trial whose true accuracy is not lower."""


def simulate(study: tuple[str, int]) -> dict[str, Outcome]:
    """Return each rule's outcome in the study of this family and seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    world = World(*study)
    return {
        OURS: _ours(world, study[1]),
        NAIVE_TRIALS: _naive(world, study[1], MORE_TRIALS, NUM_SEARCH),
        NAIVE_PROBLEMS: _naive(world, study[1], NUM_TRIALS, MORE_PROBLEMS),
    }


def _ours(world: World, seed: int) -> Outcome:
    num_proposed = RULE.selection.num_proposed
    trials = _search(world, seed, NUM_TRIALS - num_proposed, NUM_SEARCH)
    for number in range(len(trials), NUM_TRIALS):
        trials.append(world.train(number, propose([trial.result() for trial in trials], SPACE)))
    promotion = _confirmed(trials)
    by_name = {trial.run.name: trial for trial in trials}
    winner, announced = by_name[promotion.run], promotion.evidence
    return Outcome(
        regret=world.best - winner.setting_accuracy,
        optimism=announced["accuracy"] - winner.accuracy,
        covered=announced["low"] <= winner.accuracy <= announced["high"],
        best_trial_regret=world.best - max(trial.setting_accuracy for trial in trials),
        false_proof=_is_false_proof(promotion, by_name),
    )


def _confirmed(trials: list[Trained]) -> Promotion:
    """Return the promotion: give `decide` the scores that it asks for until it promotes a trial."""
    scored: dict[str, tuple[str, ...]] = {trial.run.name: () for trial in trials}
    while True:
        decision = decide([trial.result(scored[trial.run.name]) for trial in trials], RULE)
        if isinstance(decision, Promotion):
            return decision
        assert decision is not None
        for name in decision.trials:
            scored[name] += (decision.pool,)


def _is_false_proof(promotion: Promotion, by_name: dict[str, Trained]) -> bool:
    parts = promotion.reason.split(" beats ")
    if len(parts) == 1:
        return False
    beaten = "trial-" + parts[1].split()[1]
    return by_name[promotion.run].accuracy <= by_name[beaten].accuracy


def _naive(world: World, seed: int, num_trials: int, num_problems: int) -> Outcome:
    trials = _search(world, seed, num_trials, num_problems)
    winner = max(trials, key=lambda trial: trial.search[:num_problems].sum())
    announced = float(winner.search[:num_problems].mean())
    return Outcome(world.best - winner.setting_accuracy, announced - winner.accuracy)


def _search(world: World, seed: int, num_trials: int, num_problems: int) -> list[Trained]:
    """Return trial 0, with the experiment's own settings, and the trials that TPE asks for after it."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(world.own_settings)
    space = {name: distribution(given) for name, given in SPACE.items()}
    trials: list[Trained] = []
    for number in range(num_trials):
        asked = study.ask(space)
        settings: dict[str, Scalar] = dict(asked.params)
        trials.append(world.train(number, settings))
        study.tell(asked, float(trials[-1].search[:num_problems].mean()))
    return trials


# ---- the figures


def result_line(outcomes: dict[str, dict[str, list[Outcome]]]) -> str:
    """Return the last line: ratios of ours to naive over families; each family has the better one of the two naive rules."""
    all_ours = [outcome for family in outcomes.values() for outcome in family[OURS]]
    ratios = {
        "regret_ratio_smooth": _ratio(outcomes, SMOOTH, _regret),
        "regret_ratio_smooth_error": _standard_error(outcomes, SMOOTH),
        "regret_ratio_rough": _ratio(outcomes, ROUGH, _regret),
        "regret_ratio_rough_error": _standard_error(outcomes, ROUGH),
        "regret_ratio_quickstart": _ratio(outcomes, ["quickstart"], _regret),
        "optimism_ratio": _ratio(outcomes, FAMILIES, _optimism),
        "coverage": fmean([outcome.covered for outcome in all_ours]),
        "false_proofs": fmean([outcome.false_proof for outcome in all_ours]),
    }
    return json.dumps({name: round(value, 3) for name, value in ratios.items()})


def _ratio(
    outcomes: dict[str, dict[str, list[Outcome]]], families: Iterable[str], figure: Callable[[list[Outcome]], float]
) -> float:
    chosen = [outcomes[name] for name in families]
    naive = fmean([figure(family[_better_naive(family)]) for family in chosen])
    return abs(fmean([figure(family[OURS]) for family in chosen])) / naive


def _standard_error(outcomes: dict[str, dict[str, list[Outcome]]], families: Iterable[str]) -> float:
    """Return the standard error of the ratio of regrets, by the bootstrap over studies, each drawn with all its rules."""
    chosen, rng = {name: outcomes[name] for name in families}, np.random.default_rng(0)

    def drawn(family: dict[str, list[Outcome]]) -> dict[str, list[Outcome]]:
        places = rng.integers(0, len(family[OURS]), len(family[OURS]))
        return {rule: [studies[place] for place in places] for rule, studies in family.items()}

    samples = ({name: drawn(family) for name, family in chosen.items()} for _ in range(NUM_BOOTSTRAPS))
    return stdev(_ratio(sample, chosen, _regret) for sample in samples)


def _better_naive(family: dict[str, list[Outcome]]) -> str:
    return min((NAIVE_TRIALS, NAIVE_PROBLEMS), key=lambda rule: _regret(family[rule]))


def _regret(outcomes: list[Outcome]) -> float:
    return fmean([outcome.regret for outcome in outcomes])


def _best_trial_regret(outcomes: list[Outcome]) -> float:
    return fmean([outcome.best_trial_regret for outcome in outcomes])


def _optimism(outcomes: list[Outcome]) -> float:
    return fmean([outcome.optimism for outcome in outcomes])


def _table(outcomes: dict[str, dict[str, list[Outcome]]]) -> Table:
    num_studies = len(next(iter(outcomes.values()))[OURS])
    table = Table(title=f"points of accuracy, means of {num_studies} studies per family; naive promotes the best score")
    table.add_column("surface")
    for rule in (OURS, NAIVE_TRIALS, NAIVE_PROBLEMS):
        name = rule if rule == OURS else f"naive, {rule}"
        table.add_column(f"regret\n{name}", justify="right")
        table.add_column(f"optimism\n{name}", justify="right")
    table.add_column("regret\nbest trial", justify="right")
    table.add_column("regret ratio\nours / naive", justify="right")
    table.add_column("coverage\nours", justify="right")
    for name, family in outcomes.items():
        figures = [f"{100 * figure(rule):.2f}" for rule in family.values() for figure in (_regret, _optimism)]
        ratio, coverage = _ratio(outcomes, [name], _regret), fmean([outcome.covered for outcome in family[OURS]])
        error, best_trial = _standard_error(outcomes, [name]), _best_trial_regret(family[OURS])
        table.add_row(name, *figures, f"{100 * best_trial:.2f}", f"{ratio:.2f} ± {error:.2f}", f"{coverage:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40, help="simulated studies of each family (default: 40)")
    parser.add_argument("--processes", type=int, default=2, help="processes that simulate (default: 2)")
    arguments = parser.parse_args()
    start_bench()
    studies = [(family, seed) for family in FAMILIES for seed in range(arguments.studies)]
    with new_executor(arguments.processes) as executor:
        results = list(track(executor.map(simulate, studies, chunksize=5), "simulating", total=len(studies)))
    outcomes: dict[str, dict[str, list[Outcome]]] = {}
    for (family, _), rules in zip(studies, results, strict=True):
        for rule, outcome in rules.items():
            outcomes.setdefault(family, {}).setdefault(rule, []).append(outcome)
    Console(width=150).print(_table(outcomes))
    print(result_line(outcomes))


if __name__ == "__main__":
    main()
