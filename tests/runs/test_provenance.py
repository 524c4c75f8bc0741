from dataclasses import replace
from pathlib import Path

import pytest

from mathsft.config.schema import Experiment
from mathsft.data.models import resolve_model
from mathsft.data.pools import load_pools
from mathsft.runs import provenance
from mathsft.runs.provenance import ProvenanceRecorder, changes
from mathsft.runs.replay_run import Comparison, ScoreComparison, compare_losses
from mathsft.store.study_store import StudyStore
from tests.build import make_metrics, make_score, make_trial

RUN = make_trial(3, {"training.learning_rate": 0.25}, seed=7)


def office(store: StudyStore, experiment: Experiment, device: str) -> ProvenanceRecorder:
    return ProvenanceRecorder(store, resolve_model(experiment.model.path), load_pools(experiment.data), device)


def test_a_run_keeps_the_passport_it_began_with(store: StudyStore, experiment: Experiment) -> None:
    store.observers.append(office(store, experiment, "a toaster"))
    store.write(RUN)
    issued = store.provenance("trial-3")
    assert issued is not None
    assert (issued.seed, issued.device, issued.settings["training.learning_rate"]) == (7, "a toaster", 0.25)
    assert issued.versions.keys() >= {"python", "torch", "transformers", "optuna"}
    store.observers[:] = [office(store, experiment, "another toaster")]
    store.write(replace(RUN, reason="goes on"))
    assert store.provenance("trial-3") == issued


def test_a_driver_killed_before_the_passport_issues_it_at_its_next_start(store: StudyStore, experiment: Experiment) -> None:
    store.write(RUN)
    assert store.provenance("trial-3") is None
    office(store, experiment, "a toaster")
    assert store.provenance("trial-3") is not None


def test_what_changed_is_named(store: StudyStore, experiment: Experiment) -> None:
    store.observers.append(office(store, experiment, "a toaster"))
    store.write(RUN)
    issued = store.provenance("trial-3")
    assert issued is not None
    old = replace(issued, diff="")
    assert changes(old, old) == []
    new = replace(old, versions={**old.versions, "torch": "9.9"}, device="a kettle", diff="+ a line")
    lines = changes(old, new)
    assert lines[0] == "device: a toaster -> a kettle"
    assert f"torch: {old.versions['torch']} -> 9.9" in lines
    assert any(line.startswith("uncommitted changes: none -> ") for line in lines)


def test_the_hashes_follow_what_they_stand_for(store: StudyStore, experiment: Experiment) -> None:
    store.observers.append(office(store, experiment, ""))
    store.write(RUN)
    other_prompt = {"prompt": experiment.prompt.model_copy(update={"template": "r1_zero"})}
    other_data = {
        "data": experiment.data.model_copy(update={"pools": experiment.data.pools.model_copy(update={"validation": 30})})
    }
    store.observers[:] = [office(store, experiment.model_copy(update=other_data), "")]
    store.write(replace(RUN, name="trial-4", experiment=experiment.model_copy(update=other_prompt)))
    first, second = store.provenance("trial-3"), store.provenance("trial-4")
    assert first is not None and second is not None
    assert first.prompt_hash != second.prompt_hash
    assert first.data_hash != second.data_hash
    assert (first.tokenizer_hash, first.base_fingerprint) == (second.tokenizer_hash, second.base_fingerprint)


def test_no_checkout_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    assert provenance.checkout() == ("", "")


def test_loss_curves_are_compared_to_the_bit() -> None:
    old = [make_metrics("trial-3", step, loss=1 / step) for step in (1, 2, 3)]
    assert compare_losses(old, old) == ((), 0.0)
    assert compare_losses(old, old[:2]) == ((3,), 0.0)
    nudged = [old[0], replace(old[1], loss=0.5 + 2**-50), old[2]]
    assert compare_losses(old, nudged) == ((2,), 2**-50)


def test_a_replay_that_differs_counts_what_agrees() -> None:
    same = ScoreComparison(make_score(num_correct=1), make_score(num_correct=1), 200, 0)
    other = ScoreComparison(make_score(num_correct=1), make_score(num_correct=2, fingerprint="g"), 200, 15)
    assert Comparison(16, (), 0.0, "finished", "finished", (same,)).agrees
    compared = Comparison(16, (9, 12, 16), 2e-4, "finished", "finished", (same, other))
    assert not compared.agrees
    assert compared.shares == (
        "13 of 16 losses, 1 of 2 weights and 385 of 400 responses agree to the bit; losses differ by at most 0.0002, "
        "accuracies by at most 50.0 points"
    )
    assert not Comparison(16, (), 0.0, "finished", "finished", (replace(same, num_other_responses=1),)).agrees
