"""Signals end a run at the next step's edge, after the grace, or at once. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zofo.run.signals import Interrupted, Stop

ROOT = Path(__file__).parents[2]
RUN = """
import sys, time
from zofo.run.signals import Interrupted, Stop
step, grace = float(sys.argv[1]), float(sys.argv[2])
try:
    with Stop(grace) as stop:
        print("ready", flush=True)
        while stop.check() is None:
            try:
                end = time.monotonic() + step
                while time.monotonic() < end:
                    time.sleep(0.01)
            except Exception:
                print("eaten", flush=True)
        print("edge", flush=True)
        time.sleep(2 * grace if grace < 1 else 0)
        print("saved", flush=True)
        sys.exit(128 + stop.signal)
except Interrupted as stopped:
    print(stopped, flush=True)
    sys.exit(stopped.status)
"""


def run(step: float, grace: float, *signals: int) -> tuple[int, str]:
    """Start the loop above, send signals 0.1 s apart; returns its status and what it said after "ready"."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, str(step), str(grace)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for number in signals:
            time.sleep(0.1)
            process.send_signal(number)
        output, _ = process.communicate(timeout=10)
    return process.returncode, output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_step_that_outlasts_the_grace_is_interrupted(number, status):
    assert run(60, 0.2, number) == (status, f"stopped by {signal.Signals(number).name}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_step_that_ends_in_time_reaches_its_edge_and_the_save_is_not_cut_short(number, status):
    assert run(0.05, 0.5, number) == (status, "edge\nsaved\n")


def test_a_second_signal_stops_at_once():
    assert run(60, 60, signal.SIGTERM, signal.SIGINT) == (130, "stopped by SIGINT\n")
    assert run(60, 60, signal.SIGINT, signal.SIGTERM) == (143, "stopped by SIGTERM\n")


def test_the_edge_of_a_pass_stops_a_step_that_has_had_half_of_the_grace_and_no_sooner():
    with Stop(grace=1.0) as stop:
        stop.edge()
        os.kill(os.getpid(), signal.SIGTERM)
        stop.edge()  # the step may still end
        time.sleep(0.6)
        with pytest.raises(Interrupted) as raised:
            stop.edge()
        assert raised.value.edge and raised.value.signum == signal.SIGTERM
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # what is saved then is not cut short


def test_handlers_are_put_back_also_after_an_error():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ZeroDivisionError), Stop():
        assert [signal.getsignal(number) for number in numbers] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in numbers] == before
    with Stop(grace=60) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.check() == signal.SIGTERM == stop.signal
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_timer_stops_with_the_block():
    with Stop(grace=60) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and stop.signal == signal.SIGINT


def test_a_timer_of_the_callers_fires_after_the_block():
    fired = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append("theirs"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with Stop():
            time.sleep(0.3)
            assert not fired
        time.sleep(0.1)
        assert fired == ["theirs"]
        signal.setitimer(signal.ITIMER_REAL, 60, 7)
        with Stop():
            pass
        left, again = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 50 < left <= 60 and again == 7
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_it_does_nothing():
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def work() -> None:
        with Stop() as stop:
            found.extend([stop.check(), signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None, before]


def test_interrupted_is_no_exception_that_a_handler_would_eat():
    assert not issubclass(Interrupted, Exception)
    assert (Interrupted(signal.SIGTERM).status, Interrupted(signal.SIGINT).status) == (143, 130)
