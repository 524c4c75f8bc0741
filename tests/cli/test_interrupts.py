"""Ctrl-C, sent to real processes at moments that they announce."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mathsft.errors import INTERRUPTED

ROOT = Path(__file__).parents[2]

IN_A_DESTRUCTOR = """
    class Slow:
        def __del__(self):
            say("ready")
            while True:
                pass

    with ending_at_once("Stopped"):
        Slow()
"""
CLEANING_UP = """
    async def work():
        async def wait():
            try:
                say("ready")
                await asyncio.Event().wait()
            finally:
                say("cleans up")
                while True:
                    pass

        with cancelling(asyncio.current_task()):
            async with asyncio.TaskGroup() as group:
                group.create_task(wait())

    with ending_at_once("Stopped"):
        asyncio.run(work())
"""
CANCELLED = """
    async def work():
        try:
            with cancelling(asyncio.current_task()):
                say("ready")
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            say("cancelled")
            raise

    try:
        asyncio.run(work())
    except asyncio.CancelledError:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        say("ended")
"""
IMPORTING = """
    end_silently()
    say("ready")
    while True:
        pass
"""
PAGING = """
    with ending_at_once("Stopped"), raising():
        try:
            say("ready")
            while True:
                pass
        except KeyboardInterrupt:
            say("the pager's")
"""
IN_BACKGROUND = """
    with ending_at_once("Stopped"):
        say("ready")
        sys.stdin.readline()
        say("heard nothing")
"""


def interrupt(code: str, *words: str, ignored: bool = False) -> tuple[int, str, str]:
    """Run code, send it SIGINT after each word that it says; return its exit code, what else it said, and stderr."""
    program = (
        "import asyncio, signal, sys\n"
        "from mathsft.interrupts import cancelling, end_silently, ending_at_once, raising\n"
        "say = lambda word: print(word, flush=True)\n"
    ) + textwrap.dedent(code)

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)

    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=begin
    ) as process:
        assert process.stdout is not None
        for word in words:
            assert process.stdout.readline().strip() == word
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate("\n", timeout=60)
    return process.returncode, output, errors


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (IN_A_DESTRUCTOR, ["ready"], (INTERRUPTED, "", "\nStopped\n")),
        (CLEANING_UP, ["ready", "cleans up"], (INTERRUPTED, "", "\nStopped\n")),
        (CANCELLED, ["ready"], (0, "cancelled\nended\n", "")),
        (IMPORTING, ["ready"], (-signal.SIGINT, "", "")),
        (PAGING, ["ready"], (0, "the pager's\n", "")),
    ],
)
def test_no_ctrl_c_ends_in_a_traceback(code: str, words: list[str], expected: tuple[int, str, str]) -> None:
    assert interrupt(code, *words) == expected


def test_what_was_started_to_ignore_it_does() -> None:
    assert interrupt(IN_BACKGROUND, "ready", ignored=True) == (0, "heard nothing\n", "")


def test_a_terminal_gets_its_cursor_back() -> None:
    main, terminal = os.openpty()
    program = "from mathsft.interrupts import *\nwith ending_at_once('Stopped'): os.kill(os.getpid(), signal.SIGINT)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=terminal, check=False)
    os.close(terminal)
    assert os.read(main, 1000).decode().split() == ["\x1b[?25h", "Stopped"]
    os.close(main)
