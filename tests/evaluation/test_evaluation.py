"""The engine and the evaluator, real vLLM included: each test asserts on its own part of what engine_process.py saw."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mathsft.data.model_check import CPU_HEAD_SIZES
from mathsft.records import Response, Verdict
from mathsft.worker_settings import WorkerDevice
from mathsft.workers.placement import CPU_EVALUATOR_ENV, PACKED_FROM_WIDTH

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all engines

KINDS = ("correct", "wrong_answer", "format_failure")
END_OF_SEQUENCE = 0
"""The quickstart's."""


def kind_of(problem: dict[str, str]) -> str:
    """Return what becomes of the response that the model was taught to give to the problem."""
    return KINDS[ord(problem["letter"]) % 3]


def has_long_solution(problem: dict[str, str]) -> bool:
    return ord(problem["letter"]) % 2 == 1


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("evaluation")
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("engine_process.py")), str(folder)],
        env=os.environ | CPU_EVALUATOR_ENV | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "report.json").exists(), process.stderr[-4000:]
    return folder, process


@pytest.fixture(scope="module")
def report(child: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((child[0] / "report.json").read_text())
    return loaded


def engine_test(test: Any) -> Any:
    """Run the test on the report of a wide engine with a tied head, whose weights are packed, and of a narrow untied one."""
    return pytest.mark.slow(pytest.mark.parametrize("kind", ["tied", "untied"])(test))


@engine_test
def test_swapping_there_and_back_gives_the_first_outputs_exactly(report: dict[str, Any], kind: str) -> None:
    seen = report[kind]
    assert seen["A again"] == seen["A"]
    assert sum(a != b for a, b in zip(seen["A"], seen["B"], strict=True)) >= len(seen["A"]) - 1
    assert seen["fingerprints"] == seen["expected fingerprints"]


@engine_test
def test_outputs_are_those_of_transformers(report: dict[str, Any], kind: str) -> None:
    assert {name: report[kind][name] for name in "AB"} == report[kind]["references"]


@engine_test
def test_bad_checkpoints_are_refused_and_change_nothing(report: dict[str, Any], kind: str) -> None:
    seen, width = report[kind], {"tied": PACKED_FROM_WIDTH, "untied": 64}[kind]
    tensor = "model.layers.1.mlp.down_proj.weight"
    expected_words = {
        "missing folder": "missing",
        "truncated file": "cannot be read",
        "wrong shape": f"{tensor} has shape ({width}, 127), not ({width}, 128)",
        "missing tensor": f"{tensor} is missing",
        "unknown tensor": "model.layers.2.mlp.down_proj.weight is unknown",
        "NaN": f"{tensor} that are not finite",
    }
    for how, refusal in seen["refusals"].items():
        assert expected_words[how] in refusal["message"]
        assert how in refusal["message"], "the message names the folder"
        assert refusal["texts"] == seen["A"]
        assert refusal["fingerprint"] == seen["expected fingerprints"][0]


@engine_test
def test_weights_that_overflow_leave_nothing_behind(report: dict[str, Any], kind: str) -> None:
    assert report[kind]["A after overflow"] == report[kind]["A"]


@engine_test
def test_a_response_without_end_is_cut_and_says_so(report: dict[str, Any], kind: str) -> None:
    cut = [one for one in report[kind]["generations"] if one["finish_reason"] == "length"]
    assert len(cut) > 0
    assert {one["num_tokens"] for one in cut} == {24}


@engine_test
def test_sampling_follows_its_seed_and_the_place_of_the_prompt(report: dict[str, Any], kind: str) -> None:
    seen = report[kind]
    assert seen["sampled"] == seen["sampled again"]
    assert seen["sampled"] != seen["sampled with another seed"]
    assert seen["sampled"] != seen["A"]
    first, second = seen["same prompt sampled"]
    assert first != second


@engine_test
def test_entropy_is_that_of_the_distributions_that_tokens_were_drawn_from(report: dict[str, Any], kind: str) -> None:
    for measured in report[kind]["measured"]:
        ours, references = measured["entropies"]
        assert ours == pytest.approx(references, abs=1e-4)
        assert max(references) - min(references) > 0.1, "responses differ"


@engine_test
def test_log_probabilities_are_those_of_a_forward_pass_whatever_is_cached(report: dict[str, Any], kind: str) -> None:
    for measured in report[kind]["measured"]:
        for ours, references in zip(*measured["logprobs"], strict=True):
            assert ours == pytest.approx(references, abs=1e-4)
            assert sum(ours) / len(ours) == pytest.approx(sum(references) / len(references), abs=1e-5)


@engine_test
def test_samples_of_a_prompt_differ_and_the_first_is_what_it_would_be_alone(report: dict[str, Any], kind: str) -> None:
    seen = report[kind]
    samples = [seen["sampled three times"][start : start + 3] for start in range(0, 3 * len(seen["A"]), 3)]
    assert [first for first, _, _ in samples] == seen["sampled"]
    assert all(len(set(texts)) == 3 for texts in samples)


@engine_test
def test_every_finished_response_is_told(report: dict[str, Any], kind: str) -> None:
    assert report[kind]["finished"] == list(range(1, 3 * len(report[kind]["A"]) + 1))


def responses_of(score: dict[str, Any], folder: Path) -> list[Response]:
    lines = (folder / "evaluator/study" / score["responses_path"]).read_text().splitlines()
    return [
        Response(**row | {"verdict": Verdict(**row["verdict"]), "tag_flags": tuple(row["tag_flags"])})
        for row in map(json.loads, lines)
    ]


@pytest.mark.slow
def test_scores_are_what_the_model_was_taught(
    report: dict[str, Any], child: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    seen = report["evaluator"]
    search = seen["pools"]["search"]
    score = seen["taught"]
    expected = Counter(map(kind_of, search))
    assert score["counts"] == {kind: expected[kind] for kind in (*KINDS, "ungraded")}
    assert score["num_problems"] == len(search) == sum(score["counts"].values())

    responses = responses_of(score, child[0])
    assert [response.problem_id for response in responses] == [problem["id"] for problem in search]
    assert [response.verdict.category for response in responses] == [kind_of(problem) for problem in search]
    assert {response.finish_reason for response in responses} == {"stop"}
    assert all(response.text.endswith("</answer>") for response in responses), "the stop string stays"
    flags = {response.verdict.category: response.tag_flags for response in responses}
    assert flags == {"correct": (), "wrong_answer": (), "format_failure": ("missing_answer_open",)}
    assert score["costs"]["num_response_tokens"] == sum(response.num_tokens for response in responses)

    assert seen["base"]["counts"]["correct"] == 0, "the weights were swapped"
    assert seen["taught again"] == score | {"costs": seen["taught again"]["costs"]}
    assert [name for name in ("base", "taught") if seen[name]["costs"]["start_seconds"]] == ["base"]


@pytest.mark.slow
def test_slices_and_overrides_reach_the_score(report: dict[str, Any]) -> None:
    seen = report["evaluator"]
    expected = Counter(map(kind_of, seen["pools"]["confirm"][1:4]))
    assert {name: count for name, count in seen["slice"]["counts"].items() if count} == expected
    assert seen["cut"]["counts"]["format_failure"] == seen["cut"]["num_problems"]
    assert seen["cut"]["costs"]["num_response_tokens"] == 5 * seen["cut"]["num_problems"]
    assert seen["files"] == [
        "step-000000-search.jsonl",
        "step-000400-confirm-1-4.jsonl",
        "step-000400-search.jsonl",
        "step-000400-test.jsonl",
        "step-000400-validation.jsonl",
    ]


@pytest.mark.slow
def test_gold_nll_is_that_of_the_training_target_where_it_fits(
    report: dict[str, Any], child: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    seen = report["evaluator"]
    search = seen["pools"]["search"]
    expected = [None if has_long_solution(one) else seen["gold nll"][one["letter"]] for one in search]
    assert 0 < expected.count(None) < len(search)
    assert [one.gold_nll for one in responses_of(seen["taught"], child[0])] == pytest.approx(expected, abs=1e-5)
    known = [nll for nll in expected if nll is not None]
    assert seen["taught"]["gold_nll"] == pytest.approx(sum(known) / len(known), abs=1e-5)


@pytest.mark.slow
def test_a_problem_without_a_solution_is_graded_and_has_no_gold_nll(report: dict[str, Any]) -> None:
    score = report["evaluator"]["no solution"]
    assert (score["num_problems"], sum(score["counts"].values()), score["gold_nll"]) == (1, 1, None)


@pytest.mark.slow
def test_the_gold_nll_that_is_not_asked_for_costs_nothing(
    report: dict[str, Any], child: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    score = report["evaluator"]["slice"]
    assert (score["gold_nll"], {one.gold_nll for one in responses_of(score, child[0])}) == (None, {None})
    assert score["costs"]["gold_seconds"] == 0


@pytest.mark.slow
def test_a_problem_has_as_many_responses_as_samples_are_asked_for(
    report: dict[str, Any], child: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    score = report["evaluator"]["sampled"]
    responses = responses_of(score, child[0])
    (problem,) = report["evaluator"]["pools"]["test"]
    assert [(one.problem_id, one.sample) for one in responses] == [(problem["id"], sample) for sample in range(3)]
    assert [one.gold_nll is None for one in responses][1:] == [True, True]
    assert sum(score["counts"].values()) == 3
    assert score["num_problems"] == 1
    assert score["entropy"] == pytest.approx(sum(one.entropy or 0.0 for one in responses) / 3)


@pytest.mark.slow
def test_progress_is_told_of_every_response(report: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in report["evaluator"]["progress"].splitlines()]
    num_responses = len(report["evaluator"]["pools"]["search"])
    key = {"run": "trial-0000", "step": 400, "pool": "search", "num_responses": num_responses}
    assert rows == [key | {"num_finished": number} for number in range(1, num_responses + 1)]


@pytest.mark.slow
def test_a_broken_swap_ends_the_process_once_and_then_fails(report: dict[str, Any]) -> None:
    seen = report["evaluator"]
    assert seen["broken swap"].startswith("SystemExit")
    assert "runs/trial-0000/step-000400" in seen["broken swap"]
    assert seen["broken swap in an unproven engine"].startswith("CheckpointError")
    assert "runs/trial-0000/step-000400" in seen["broken swap in an unproven engine"]
    assert seen["mended"] == seen["base"] | {"costs": seen["mended"]["costs"]}


@pytest.mark.slow
def test_an_engine_is_checked_before_it_scores(report: dict[str, Any]) -> None:
    seen = report["evaluator"]
    assert seen["check"]["nats"] < 1e-5
    assert seen["check"]["model_kind"] == "Qwen2ForCausalLM"
    assert seen["check of a broken swap"].startswith("UserError: model.path: vLLM does not replace all weights of a Qwen2")
    assert "Set evaluation.load to new_engine" in seen["check of a broken swap"]
    assert seen["check of another function"].startswith("UserError: model.path: vLLM computes another function for a Qwen2")
    assert "differ from the trainer's by 0.25 nats per token" in seen["check of another function"]


@pytest.mark.slow
def test_a_new_engine_for_every_checkpoint_needs_no_swap(report: dict[str, Any]) -> None:
    """Although swaps are broken, as they are in the check before."""
    seen = report["evaluator"]
    assert seen["check with new engines"]["nats"] < 1e-5
    assert seen["check with new engines"]["load"] == "new_engine"
    assert seen["taught in a new engine"] == seen["taught"] | {"costs": seen["taught in a new engine"]["costs"]}


@pytest.mark.slow
def test_head_sizes_are_those_that_vllm_serves_on_a_cpu(report: dict[str, Any]) -> None:
    assert report["head sizes"] == list(CPU_HEAD_SIZES)


@pytest.mark.slow
def test_what_cannot_be_scored_is_refused(report: dict[str, Any]) -> None:
    seen = report["evaluator"]
    fingerprint = seen["taught"]["fingerprint"]
    assert seen["mislabelled"].startswith("CheckpointError")
    assert fingerprint[::-1] in seen["mislabelled"]
    assert seen["base"]["fingerprint"] in seen["mislabelled"]
    assert seen["longer"].startswith("UserError")
    assert "evaluation.max_tokens = 5000" in seen["longer"]
    assert seen["long prompt"].startswith("UserError")
    assert (
        f"{report['num_positions'] + 1} tokens, but the model has only {report['num_positions']} positions"
        in seen["long prompt"]
    )


@pytest.mark.slow
def test_a_reload_that_fails_ends_the_process(child: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, process = child
    assert process.returncode == 1
    assert not (folder / "survived").exists()
    assert "planted" in process.stderr, "the log tells why"


@pytest.mark.slow
def test_transformers_and_vllm_generate_the_same_from_the_exported_folder(report: dict[str, Any]) -> None:
    said = report["export"]
    assert said["vllm"] == said["transformers"]
    assert len(said["vllm"]) == 24
    assert sum(tokens[-1] == END_OF_SEQUENCE for tokens in said["vllm"]) >= 12, "both stop where the folder says"
    assert len({tuple(tokens) for tokens in said["vllm"]}) >= 12, "answers differ from problem to problem"


@pytest.mark.slow
def test_another_task_in_a_chat_with_boxed_answers_is_learned_and_scored(report: dict[str, Any]) -> None:
    seen = report["exact match"]
    assert seen["score"]["counts"]["correct"] >= 20, "of 24"
    for response in seen["responses"]:
        body, category = response["verdict"]["body"], response["verdict"]["category"]
        assert category != "correct" or response["text"] == rf"\boxed{{{body}}}", "the response ends with its turn"
    assert {response["verdict"]["body"] for response in seen["responses"]} >= {"yes", "no"}


def test_an_engine_outside_its_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mathsft.evaluation.engine import Engine

    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    hardware = WorkerDevice("cpu", 1, "sdpa", "float32", 0.5, sleep_mode=False)
    with pytest.raises(RuntimeError, match="VLLM_ENABLE_V1_MULTIPROCESSING=0"):
        Engine(tmp_path, "", hardware, max_model_len=16)


# ---- adapters


def largest_gap(one: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = zip(one["logprobs"], other["logprobs"], strict=True)
    return max(abs(left - right) for lefts, rights in pairs for left, right in zip(lefts, rights, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A", "B"])
def test_an_adapter_answers_alike_as_a_request_and_merged(report: dict[str, Any], name: str) -> None:
    merged, requested = report["adapters"]["merged"], report["adapters"]["requests"]
    assert largest_gap(merged[name], requested[name]) < 1e-4
    assert merged[name]["texts"] == requested[name]["texts"]
    for other in ("full-base", "A" if name == "B" else "B"):
        assert largest_gap(merged[name], merged[other]) > 0.1


@pytest.mark.slow
def test_swapping_adapters_there_and_back_gives_the_first_outputs_exactly(report: dict[str, Any]) -> None:
    for way in ("merged", "requests"):
        answers = report["adapters"][way]
        assert answers["A again"] == answers["A"]


@pytest.mark.slow
def test_an_adapter_that_is_rewritten_at_its_path_is_not_served_stale(report: dict[str, Any]) -> None:
    seen = report["adapters"]
    assert seen["rewritten"] == seen["requests"]["B"]
    assert "lora_A.weight that are not finite" in seen["damaged"]
    assert seen["after a refusal"] == seen["rewritten"]


@pytest.mark.slow
def test_dora_and_full_weights_are_not_served_as_requests(report: dict[str, Any]) -> None:
    accepted = {name for name, is_accepted in report["adapters"]["accepts"].items() if is_accepted}
    assert accepted == {"A", "B", "lora-base", "lora-changed"}
    assert largest_gap(report["adapters"]["merged"]["dora"], report["adapters"]["merged"]["full-base"]) > 0.1


@pytest.mark.slow
def test_the_engine_check_and_the_scores_hold_for_adapters(report: dict[str, Any]) -> None:
    seen = report["adapters"]
    for check in ("check of both", "check of requests"):
        assert 0 < seen[check]["nats"] < 1e-4
    requested, merged, full = (seen[f"score of {kind}"] for kind in ("a request", "merged weights", "full weights"))
    assert requested["counts"] == merged["counts"]
    assert requested["gold_nll"] == pytest.approx(merged["gold_nll"], rel=1e-5)
    assert requested["fingerprint"] == merged["fingerprint"] != full["fingerprint"]
    assert abs(requested["gold_nll"] - full["gold_nll"]) > 0.1
