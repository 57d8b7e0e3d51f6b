"""Real signals, sent to processes that do nothing else."""

import subprocess
import sys

import pytest

BEGIN = """
import os, signal, time
from vibench.signals import BURST_S, Stopped, asked, deferred, heeded

def send(name):
    os.kill(os.getpid(), getattr(signal, name))
"""
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR2": 75}


def done(script):
    """A process that has run a script: its exit status, and the lines it printed."""
    found = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in found.stderr
    return found.returncode, found.stdout.split("\n")[:-1], found.stderr


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_signal_stops_at_once_with_the_status_of_a_shell_or_that_of_try_again(name, code):
    script = f"""
with heeded():
    print("before")
    send("{name}")
    print("after")
"""
    assert done(script) == (code, ["before"], "")


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_signal_from_outside_stops_what_waits(name, code):
    script = "with heeded():\n    print('ready', flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", BEGIN + script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        subprocess.run(["kill", f"-{name.removeprefix('SIG')}", str(child.pid)], check=True)
        assert child.wait(30) == code


@pytest.mark.parametrize("name", CODES)
def test_what_stops_says_by_which_signal_and_is_not_swallowed_as_a_failure(name):
    script = f"""
try:
    with heeded():
        try:
            send("{name}")
        except Exception:
            print("swallowed")
except Stopped as stopped:
    print(stopped, stopped.number == signal.{name})
"""
    assert done(script) == (0, [f"stopped by {name} True"], "")


@pytest.mark.parametrize("name", CODES)
def test_while_it_can_wait_the_first_signal_only_asks(name):
    script = f"""
with heeded():
    try:
        with deferred():
            print(asked())
            send("{name}")
            print(asked() == signal.{name})
            raise LookupError  # the step has ended, and says so in its own way
    except LookupError:
        print("ended")
"""
    code, lines, said = done(script)
    assert (code, lines) == (0, ["None", "True", "ended"])
    assert said == f"{name}: a checkpoint is saved after this step; once more stops at once\n"


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_signal_with_no_step_left_to_wait_for_stops_at_the_end(name, code):
    script = f"""
with heeded():
    with deferred():
        send("{name}")
        print("the end of the last step")
    print("after")
"""
    found = done(script)
    assert found[:2] == (code, ["the end of the last step"])


def test_without_a_signal_waiting_ends_as_it_began():
    script = """
with heeded():
    with deferred():
        pass
    print(asked())
    send("SIGTERM")
    print("after")
"""
    assert done(script) == (143, ["None"], "")


BURST = """
with heeded():
    with deferred():
        for name in ("SIGTERM", "SIGTERM", "SIGINT", "SIGUSR2"):
            send(name)
        print(asked() == signal.SIGTERM, flush=True)
        {more}
        print("saved")
"""


def test_a_burst_of_signals_is_one_and_the_first_of_them_counts():
    code, lines, said = done(BURST.format(more=""))
    assert (code, lines) == (143, ["True", "saved"])
    assert said.count("once more stops at once") == 1


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_second_signal_later_than_a_burst_stops_at_once(name, code):
    assert done(BURST.format(more=f"time.sleep(BURST_S + 0.05); send('{name}')"))[:2] == (code, ["True"])


def test_once_it_is_ignored_a_signal_does_nothing_within_or_outside_a_step():
    script = """
with heeded() as ignore:
    with deferred():
        ignore()
        for name in ("SIGINT", "SIGTERM", "SIGUSR2"):
            send(name)
        print(asked())
    for name in ("SIGINT", "SIGTERM", "SIGUSR2"):
        send(name)
    print("after")
"""
    assert done(script) == (0, ["None", "after"], "")


@pytest.mark.parametrize("how", ["pass", "raise LookupError", "send('SIGTERM')"])
def test_handlers_are_as_before_however_it_ends(how):
    script = f"""
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
signal.signal(signal.SIGTERM, lambda *_: print("its own"))
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
before = [signal.getsignal(number) for number in numbers]
try:
    with heeded():
        print([signal.getsignal(number) for number in numbers] != before)
        {how}
except (LookupError, Stopped):
    pass
print([signal.getsignal(number) for number in numbers] == before)
send("SIGTERM")
send("SIGUSR2")
"""
    assert done(script) == (0, ["True", "True", "its own"], "")


def test_what_was_asked_or_ignored_before_is_forgotten():
    script = """
with heeded() as ignore:
    ignore()
try:
    with heeded():
        try:
            with deferred():
                send("SIGINT")
                raise LookupError
        except LookupError:
            pass
        print(asked() is not None)
except Stopped:
    pass
with heeded():
    print(asked())
    with deferred():
        print("a step")
    send("SIGUSR2")
    print("after")
"""
    assert done(script)[:2] == (75, ["True", "None", "a step"])


def test_a_step_that_fails_after_it_was_asked_to_stop_fails_as_it_did():
    script = """
with heeded():
    try:
        with deferred():
            send("SIGTERM")
            1 / 0
    except ZeroDivisionError:
        print("failed")
"""
    assert done(script)[:2] == (0, ["failed"])


def test_nothing_else_of_a_process_is_imported_with_it():
    """It stops a process that has not begun to import torch."""
    code = "import sys, vibench.signals; print('torch' in sys.modules, 'hydra' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"
