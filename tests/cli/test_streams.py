"""What becomes of output that cannot be shown, or that nobody takes: real processes with a user's streams."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mathsft import cli
from mathsft.errors import FAILED, INTERRUPTED, OK, USER_ERROR
from mathsft.records import Problem
from mathsft.store.study_store import StudyStore
from tests.build import make_checkpoint, make_promotion, make_response, make_trial, score_of

pytestmark = pytest.mark.slow  # real processes

ROOT = Path(__file__).parents[2]
ENCODINGS = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
}
SHELTERED = """
import os, signal, sys
from mathsft.interrupts import ending_at_once
from mathsft.streams import safe_streams
with safe_streams(lambda error: print("lost:", error.strerror, file=sys.stderr)):
    {}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a name that is not Latin, and in it a study whose problem and response are not ASCII."""
    workplace = tmp_path_factory.mktemp("данные")
    folder = workplace / "studies" / "demo"
    folder.mkdir(parents=True)
    store = StudyStore.open(f"sqlite:///{folder / 'study.db'}", "demo")
    store.record_problems([Problem("p0", "Wie groß ist π – ungefähr…?", "", "3")])
    store.write(make_trial(0, {"training.learning_rate": 0.01}, value=1.0))
    store.write(make_checkpoint("trial-0", 64, "runs/trial-0/step-000064"))
    response = make_response("p0", text="中 </think> <answer> 3 </answer>", body="3")
    store.write(score_of([response], "trial-0", 64), [response])
    store.write(make_promotion("trial-0", reason="better by 2 – 3 points"))
    store.close()
    shutil.copytree(ROOT / "experiments", workplace / "experiments")
    shutil.copy(ROOT / "studies" / "quickstart.yaml", workplace / "studies")
    (workplace / "answers.jsonl").write_text(json.dumps({"id": "ñ–", "gold": "1", "answer": "π"}) + "\n{")
    return workplace


def mathsft(workplace: Path, *arguments: str, env: dict[str, str] | None = None, **streams: Any) -> tuple[int, bytes, bytes]:
    """Run `python -m mathsft`; return its exit code and what it wrote to pipes."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run([sys.executable, "-m", "mathsft", *arguments], cwd=workplace, env=given, check=False, **streams)
    return done.returncode, done.stdout, done.stderr


def python(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run code inside of `safe_streams`."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", SHELTERED.format(code)], cwd=ROOT, check=False, **options)


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


# ---- encodings


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_shows_all_that_there_is(name: str, workplace: Path) -> None:
    """Several commands in one process: most of its time goes into imports."""
    commands = (
        "from mathsft.cli import main",
        "assert main(['show', 'demo', '0', '--responses', 'all']) == 0",
        "assert main(['show', 'demo']) == 0",
        "assert main(['config', '--schema']) == 0",
        "assert main(['grade', 'answers.jsonl']) == 2",
        "assert main(['show', 'nothing']) == 2",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(commands)],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), **ENCODINGS[name]},
        capture_output=True,
        check=False,
    )
    assert done.returncode == OK, done.stderr
    encoding = "latin-1" if name == "latin-1" else "ascii"
    shown, errors = done.stdout.decode(encoding, "surrogateescape"), done.stderr
    assert "ist \\u03c0 - ungef" in shown and "...?" in shown, "what ASCII has something like is that, all else is named"
    assert ("groß" if name == "latin-1" else "gro\\xdf") in shown
    assert "\\u4e2d </think>" in shown
    assert "+- p0 ---" in shown, "frames are drawn in ASCII"
    assert "20.7% - 100.0%" in shown and "better by 2 - 3 points" in shown and "+-----" in shown
    assert "AdamW's peak learning rate." in shown
    assert json.loads(next(line for line in shown.splitlines() if line.startswith("{")))["id"] == "ñ–"
    assert (b"'\xf1-'" if name == "latin-1" else b"'\\xf1-'") in errors, "the id of what took longest"
    # In the C locale Python reads a name as the bytes that it is, and they are written again.
    assert (workplace.name.encode() if name == "C" else b"\\u0434\\u0430\\u043d\\u043d\\u044b\\u0435") in errors
    assert b"Traceback" not in errors


def test_a_folder_whose_name_cannot_be_read_is_no_place_for_a_study(workplace: Path) -> None:
    command = [sys.executable, str(ROOT / "run_final.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **ENCODINGS["C"]}
    done = subprocess.run(command, cwd=workplace, env=env, capture_output=True, check=False)
    assert done.returncode == USER_ERROR
    assert workplace.name.encode() in done.stderr and b"set LC_ALL=C.UTF-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_pager_gets_readable_text_too(workplace: Path) -> None:
    main, terminal = pty.openpty()
    env = {**ENCODINGS["C"], "PAGER": "cat", "TERM": "dumb"}
    code, _, errors = mathsft(workplace, "show", "demo", "0", "--responses", "all", env=env, stdin=terminal, stdout=terminal)
    os.close(terminal)
    shown = read_all(main)
    assert (code, errors) == (OK, b"")
    assert b"ist \\u03c0 - ungef" in shown


def test_a_question_that_nobody_can_answer_is_answered_with_no(workplace: Path) -> None:
    weights = workplace / "studies" / "demo" / "runs" / "trial-0" / ".step-000065.partial"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"half")
    main, terminal = pty.openpty()
    code, _, errors = mathsft(workplace, "clean", "demo", env={"TERM": "dumb"}, stdin=subprocess.DEVNULL, stdout=terminal)
    os.close(terminal)
    shown = read_all(main)
    assert (code, errors) == (OK, b"")
    assert b"Free " in shown and b"Nothing was deleted" in shown
    assert b"\x1b" not in shown


def read_all(main: int) -> bytes:
    """Return what a terminal was sent whose other end is closed."""
    shown = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # how Linux ends a terminal's output
            break
        if not chunk:
            break
        shown += chunk
    os.close(main)
    return shown


def test_bytes_of_a_name_that_are_no_text_come_out_as_they_are() -> None:
    done = python(r"print('a\udcff', '\ud800')")
    assert (done.returncode, done.stdout, done.stderr) == (OK, b"a\xff \\ud800\n", b"")


def test_a_minus_stays_one_and_nothing_changes_its_meaning() -> None:
    done = python(r"print('\u2212 \u2260 \xb2 \xe9')", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout == b"- \\u2260 \\xb2 \\xe9\n", "neither = nor 2 nor e, which would say something else"


# ---- readers that go away, full disks, streams that were never open


def test_a_reader_that_has_seen_enough_is_no_trouble(workplace: Path, closed_pipe: int) -> None:
    assert mathsft(workplace, "config", stdout=closed_pipe) == (OK, None, b"")


def test_nobody_need_read_the_mistakes_either(workplace: Path, closed_pipe: int) -> None:
    given = mathsft(workplace, "config", "--set", "nonsense", stdout=closed_pipe, stderr=closed_pipe)
    assert given == (USER_ERROR, None, None)


def test_a_full_disk_is_one_line_and_an_exit_code(workplace: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, errors = mathsft(workplace, "config", stdout=full)
    assert code == FAILED
    assert errors == b"python -m mathsft config: standard output: No space left on device; some output was not written\n"


def test_a_long_command_says_that_it_goes_on_without_reader(
    closed_pipe: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would do for long is left out; its process goes on to the end all the same."""

    def run(arguments: object) -> int:
        print("a line\n" * 3, flush=True)
        return FAILED

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(closed_pipe), "w"))
    assert cli.main(["replay", "demo", "0"]) == FAILED
    assert capfd.readouterr().err == f"python -m mathsft replay: {cli.WITHOUT_READER}\n"
    assert cli.main(["clean", "demo"]) == FAILED
    assert capfd.readouterr().err == ""


def test_a_full_disk_that_is_free_again_is_written_to(tmp_path: Path) -> None:
    """A limit on the file's size stands for the disk: it is reached, and raised."""
    log = tmp_path / "log"
    code = (
        "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = resource.RLIMIT_FSIZE; "
        "resource.setrlimit(limit, (10, resource.RLIM_INFINITY)); print('x' * 20, flush=True); "
        "resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); print('again', flush=True)"
    )
    with log.open("wb") as file:
        done = python(code, stdout=file)
    assert log.read_bytes() == b"x" * 10 + b"again\n"
    assert done.stderr == b"lost: File too large\n"


def test_streams_that_were_never_open_lend_their_numbers_to_no_file(tmp_path: Path) -> None:
    database = tmp_path / "database"
    code = (
        f"file = open({str(database)!r}, 'w'); assert file.fileno() > 2; print('out'); print('error', file=sys.stderr); "
        "assert sys.stdin.read() == ''"
    )

    def close() -> None:
        os.closerange(0, 3)

    done = subprocess.run([sys.executable, "-c", SHELTERED.format(code)], cwd=ROOT, preexec_fn=close, check=False)
    assert done.returncode == OK
    assert database.read_bytes() == b""


def test_ctrl_c_ends_a_process_that_nobody_listens_to(closed_pipe: int) -> None:
    code = r"with ending_at_once('\udcff \u2013'): os.kill(os.getpid(), signal.SIGINT)"
    assert python(code, stderr=closed_pipe).returncode == INTERRUPTED
    done = python(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"\n\xff -\n")
