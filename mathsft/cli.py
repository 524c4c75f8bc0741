"""The command line: parses the arguments, runs the command, and turns every error into one line and an exit code.

Slow imports come after parsing, so that --help answers at once.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TypeAlias

from mathsft.errors import FAILED, INTERRUPTED, OK, USER_ERROR, StudyFailedError, UserError
from mathsft.interrupts import ending_at_once
from mathsft.invocation import command, program
from mathsft.streams import safe_streams

OPENED_COMMANDS = ("study", "final")
"""Commands that write their first line before the slow imports."""
LONG_COMMANDS = ("study", "final", "replay")
"""Commands that continue when the reader of their output has gone, since their results are in the database."""
WITHOUT_READER = "the reader of the output has gone; the command continues to its end without output (Ctrl-C stops it)"

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

GRADE_EXAMPLES = r"""
in:   {"id": 1, "gold": "\\frac{1}{2}", "answer": "0.5"}                            a bare answer
      {"id": 2, "gold": "15", "response": "... </think> <answer>15</answer>"}       a whole response
  optional keys and their defaults: "finish_reason": "stop" ("length" if the response was cut off),
      "gold_kind": "answer" ("math_solution": gold ends in \boxed{...}; "gsm8k_solution": gold ends in #### ...)
out:  {"id": 1, "category": "correct", "correct": true, "format_ok": null, "reason": "", "seconds": 0.0001}
  category: correct, wrong_answer, format_failure, or ungraded (the comparison took too long; correct is then null)

All valid lines are graded. Invalid lines are named at the end, and the exit code is then 2.
"""


def main(argv: Sequence[str]) -> int:
    """Run a command (mathsft, python -m mathsft) and return its exit code."""
    parser = argparse.ArgumentParser(prog=program(), description="Search for settings, train with them, show the results.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_study(commands)
    _add_final(commands)
    config = commands.add_parser("config", help="print the resolved settings, or the schema of all settings")
    _add_settings_options(config)
    config.add_argument("--schema", action="store_true", help="print every setting with its type, default and meaning")
    report = commands.add_parser("report", help="write a study's report again from its database")
    _add_settings_options(report)
    _add_show(commands)
    _add_compare(commands)
    replay = commands.add_parser(
        "replay",
        help="train a recorded run again and compare; the records do not change",
        description="Train and score a recorded run again, and compare losses, weights and responses with the record, which "
        "does not change. On a CPU with the same packages, processor and threads everything must agree to the bit. On CUDA "
        "devices that is not promised: the command counts what agrees.",
        epilog="Exit codes: 0 if all agrees to the bit, else 1.",
    )
    replay.add_argument("study", metavar="STUDY", help="a study's name, file or folder")
    replay.add_argument("run", metavar="RUN", help="a run's name, a trial's number, best, or final")
    _add_storage_option(replay)
    _add_backend_options(replay)
    dashboard = commands.add_parser(
        "dashboard",
        help="show studies in the browser with optuna-dashboard, on this machine only",
        description="Serve optuna-dashboard on 127.0.0.1 for reading: notes, plots, trials, responses, reports.",
        epilog="Ctrl-C stops it. A study that runs may be shown, too.",
    )
    dashboard.add_argument("studies", nargs="*", metavar="STUDY", help="names, files or folders (default: all studies)")
    _add_storage_option(dashboard)
    dashboard.add_argument("--port", type=_port, metavar="N", help="listen on this port (default: 8080, or any free one)")
    dashboard.add_argument("--open", action="store_true", help="open the page in the browser")
    _add_export(commands)
    clean = commands.add_parser("clean", help="show a study's disk use, and delete files that are no longer needed")
    clean.add_argument("study", metavar="STUDY", help="a study's name, file or folder")
    _add_storage_option(clean)
    clean.add_argument("--yes", action="store_true", help="delete without asking")
    _add_data(commands)
    _add_grade(commands)
    _add_doctor(commands)
    return _run(parser, commands, argv)


def _add_study(commands: Commands) -> None:
    study = commands.add_parser(
        "study",
        prog=program("study"),
        help="search for the learning rate and batch size to fine-tune with",
        description="Search for the learning rate and batch size to fine-tune with: short training runs, each scored on "
        "200 problems that vLLM solves. The same command resumes a stopped study, and shows the results of a finished one.",
        epilog="All files are in studies/<name>/. At its end the study prints the command of the full run.",
    )
    _add_settings_options(study)
    study.add_argument("--trials", type=_positive_int, metavar="N", help="total number of finished trials")
    study.add_argument("--hours", type=_positive_float, metavar="H", help="propose no new trial after this many hours")
    study.add_argument("--warm-from", metavar="STUDY", help="try another study's best settings first")
    _add_backend_options(study)
    study.add_argument("--dry-run", action="store_true", help="print the plan and its predicted time, disk and memory")


def _add_final(commands: Commands) -> None:
    final = commands.add_parser(
        "final",
        prog=program("final"),
        help="train the full run, with the winner's settings or your own",
        description="Train the full run with given settings while a second process scores its checkpoints. "
        "The same command resumes a stopped run. Without --from-best it uses the experiment's own settings.",
        epilog="Precedence: --learning-rate and --batch-size, then --set, then the study's best settings, then the files.",
    )
    _add_settings_options(final)
    final.add_argument("--from-best", action="store_true", help="use the settings of the study's winner")
    final.add_argument(
        "--horizon",
        choices=("keep", "adjust"),
        default="keep",
        help="with --from-best: keep the winner's learning rate, or adjust it to this run's length by the study's horizon "
        "runs (default: keep)",
    )
    _add_backend_options(final)
    final.add_argument("--learning-rate", metavar="X", help="short for --set training.learning_rate=X")
    final.add_argument("--batch-size", metavar="N", help="short for --set training.batch_size=N")


def _add_show(commands: Commands) -> None:
    show = commands.add_parser("show", help="show all studies, one study's trials, or one run and its responses")
    show.add_argument("study", nargs="?", metavar="STUDY", help="a study's name, file or folder (default: list all studies)")
    show.add_argument("run", nargs="?", metavar="RUN", help="a run's name, a trial's number, best, or final")
    _add_storage_option(show)
    show.add_argument("--pool", help="show the scores on this pool (default: the run's own pool)")
    show.add_argument("--step", type=int, metavar="N", help="show the checkpoint of this step (default: the last)")
    categories = ("all", "correct", "wrong_answer", "format_failure", "ungraded")
    show.add_argument("--responses", choices=categories, help="page through the responses of this category")
    show.add_argument("--search", metavar="TEXT", help="show only responses with this text in problem, gold or response")
    show.add_argument("--json", action="store_true", help="print JSON for scripts")


def _add_compare(commands: Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="say whether one checkpoint is better than another on the same problems",
        description="Say whether checkpoint B is better than checkpoint A on the problems that both were scored on, and if "
        "that is not proven, how many more problems would prove it. A and B may be of different studies.",
        epilog='Exit codes: 0 if there is an answer, also if it is "not proven"; 2 if the two cannot be compared. The '
        "comparison is of checkpoints: another seed of the same settings gives another checkpoint.",
    )
    named = "STUDY/RUN or STUDY/RUN@STEP: a study's name or folder, and a run's name, a trial's number, best, or final; "
    default = "without a step a final run's best checkpoint, another run's last"
    compare.add_argument("first", metavar="A", help=named + default)
    compare.add_argument("second", metavar="B", help="the same, of the checkpoint that may be better")
    compare.add_argument("--pool", help="compare on this pool (default: test if both were scored on it, else all problems)")
    compare.add_argument("--json", action="store_true", help="print JSON for scripts; docs/programs.md explains it")
    _add_storage_option(compare)


def _add_data(commands: Commands) -> None:
    data = commands.add_parser(
        "data",
        help="show what an experiment's data hold, and their defects, without training",
        description="Read an experiment's data, and show the pools, what was found in them with examples, the lengths of "
        "training examples, and the predicted speed of training.",
        epilog="Exit codes: 0, or 2 if a study with these settings would stop at its data.",
    )
    data.add_argument("experiment", metavar="EXPERIMENT", help="a name in experiments/ or a YAML file")
    _add_set_option(data)
    data.add_argument("--json", action="store_true", help="print one JSON object for scripts")


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="write a run's weights with a model card into a folder of their own")
    export.add_argument("study", metavar="STUDY", help="a study's name, file or folder")
    export.add_argument("run", metavar="RUN", help="a run's name, a trial's number, best, or final")
    _add_storage_option(export)
    export.add_argument("--merge", action="store_true", help="merge an adapter into the base model's weights")
    export.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step (default: the best or last one)")
    export.add_argument("--to", metavar="FOLDER", help="the new folder (default: exports/RUN in the study's folder)")


def _add_grade(commands: Commands) -> None:
    grade = commands.add_parser(
        "grade",
        help="grade answers or whole responses in a JSONL file",
        description="Grade a JSONL file with one JSON object per line. The output has one line for each, in the same order; "
        "the counts go to standard error.",
        epilog=GRADE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    grade.add_argument("file", metavar="FILE.jsonl", help="the file to grade; - reads standard input")
    grade.add_argument("--out", metavar="FILE", help="write the verdicts to this file (default: standard output)")


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check this machine, the chosen study and the workers in under a minute",
        description="Check packages, hardware, settings, model, data and database, then train and serve the embedded "
        "model in worker processes, and predict the chosen study. One line for each check: OK, or what must be changed.",
        epilog="Exit codes: 0, or 2 if something must be changed. A bug report should contain this command's output.",
    )
    _add_settings_options(doctor)
    doctor.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    doctor.add_argument(
        "--hardware",
        metavar="NxGB",
        help="check nothing; show what would work where on N CUDA devices of GB gigabytes each, for example 8x80",
    )


def _add_settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", metavar="NAME|FILE", help="the searched settings: a name in studies/ or a YAML file")
    parser.add_argument("--experiment", metavar="NAME|FILE", help="the fixed settings (default: named in the study's file)")
    _add_storage_option(parser)
    _add_set_option(parser)


def _add_set_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting by its dotted name, for example training.weight_decay=0.1 (may be repeated); "
        f"`{command('config', '--schema').replace('%', '%%')}` lists them",
    )


def _add_storage_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="keep the records in this PostgreSQL database, as postgresql+psycopg://USER@HOST/DATABASE; the password comes "
        "from PGPASSWORD or ~/.pgpass (default: MATHSFT_STORAGE, or an SQLite file in the study's folder)",
    )


def _add_backend_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=("spawn", "ray"),
        default="spawn",
        help="where the workers run: in processes on this machine, or in Ray (default: spawn)",
    )
    parser.add_argument(
        "--address",
        metavar="auto|HOST:PORT",
        help="with --backend ray: the running cluster (default: a Ray of its own on this machine)",
    )


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def _positive_float(text: str) -> float:
    with suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")


def _run(parser: argparse.ArgumentParser, commands: Commands, argv: Sequence[str]) -> int:
    """Parse, run the command and return the exit code: 0 (done), 1 (failed), 2 (user error), 130 (interrupted)."""
    chosen, goes_on, is_incomplete = parser, False, False

    def tell(error: OSError) -> None:
        nonlocal is_incomplete
        if not isinstance(error, BrokenPipeError):
            is_incomplete = True
            print(f"{chosen.prog}: standard output: {error.strerror}; some output was not written", file=sys.stderr)
        elif goes_on:
            print(f"{chosen.prog}: {WITHOUT_READER}", file=sys.stderr)

    with safe_streams(tell):
        arguments, unknown = parser.parse_known_args(argv)
        chosen, goes_on = commands.choices[arguments.command], arguments.command in LONG_COMMANDS
        if unknown:
            chosen.error(f"unrecognized arguments: {shlex.join(unknown)}")
        exit_code = _act(chosen, arguments, argv)
    return exit_code or (FAILED if is_incomplete else OK)


def _act(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the command and return the exit code; every error becomes one line."""
    from mathsft.packages import installation_problem  # this import takes longer than printing --help

    # doctor reports this problem itself, in the form that was asked for.
    if arguments.command != "doctor" and (problem := installation_problem()):
        print(f"{parser.prog}: {problem}", file=sys.stderr)
        return USER_ERROR
    goes_on = arguments.command in OPENED_COMMANDS
    stopped = f"Stopped; all finished work is saved. Go on with: {command(*argv)}" if goes_on else "Stopped"
    try:
        with ending_at_once(stopped):
            return _call(arguments)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USER_ERROR
    except StudyFailedError as error:
        print(f"{parser.prog}: the study ended: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return INTERRUPTED


def _call(arguments: argparse.Namespace) -> int:
    """Import the command's module and run it."""
    module = f"mathsft.commands.{arguments.command}"
    exit_code: int
    if arguments.command in OPENED_COMMANDS:
        from mathsft.commands.opening import open_command

        with open_command(arguments) as context:
            with context.heartbeat.during("loading libraries"):
                command_module = import_module(module)
            exit_code = command_module.run(arguments, context)
    else:
        exit_code = import_module(module).run(arguments)
    return exit_code
