"""What zofo changes in somebody else's program is put back, and Ctrl-C is theirs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zofo import loop, resume, train
from zofo.errors import BadInput
from zofo.guest import given, guest, spoken
from zofo.run.signals import Interrupted

SMALL: dict[str, Any] = {
    "batch": 2, "data__train_rows": 12, "data__validation_rows": 4, "data__test_rows": 4, "data__max_length": 48,
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_threads_are_as_they_were_after_a_run_and_after_one_that_failed(folder: str, tmp_path: Path) -> None:
    train(folder, "reviews", "mezo", steps=1, run__dir=str(tmp_path), run__threads=1, **SMALL)
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match=r"^mine$"), guest():
        torch.set_num_threads(1)
        raise RuntimeError("mine")
    assert torch.get_num_threads() == 2


def test_inference_mode_around_a_run_is_theirs_and_not_ours(folder: str, tmp_path: Path) -> None:
    with torch.inference_mode():
        train(folder, "reviews", "fo-lora", steps=1, run__dir=str(tmp_path), run__threads=1, **SMALL)
        assert torch.is_inference_mode_enabled()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as Python has it: a shell's background job begins with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted)])
def test_ctrl_c_is_a_keyboard_interrupt_and_the_state_is_saved(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[BaseException]
) -> None:
    record = loop.record

    def struck(r: Any, state: Any, report: Any, progress: Any) -> None:
        record(r, state, report, progress)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(loop, "record", struck)
    with pytest.raises(raised) as caught:
        train(folder, "reviews", "mezo", steps=5, run="cut", run__dir=str(tmp_path), run__threads=1, **SMALL)
    assert type(caught.value) is raised and str(caught.value) == f"stopped by {signal.Signals(number).name}"
    assert (tmp_path / "cut" / "checkpoints" / "step-000001").is_dir()
    assert torch.get_num_threads() == 2 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(loop, "record", record)
    assert resume("cut", dir=tmp_path)["run"] == str(tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoints" / "step-000005").is_dir()
    assert torch.get_num_threads() == 2


def test_options_come_by_dotted_key_and_one_without_effect_is_refused() -> None:
    def reads(key: str) -> bool:
        return key.startswith("data.")

    assert given({"data__shots": 3, "data.batch": 2}, reads, "counting") == {"data.shots": 3, "data.batch": 2}
    with pytest.raises(BadInput, match=r"^--method.T 3: it has no effect on counting; leave it out$"):
        given({"method__T": 3}, reads, "counting")
    with pytest.raises(BadInput, match=r"give steps=$"):
        given({"run__steps": 3}, reads, "counting", {"run.steps": "steps"})
    with pytest.raises(BadInput, match=r"option data__shost: no such option; did you mean 'data__shots'"):
        given({"data__shost": 3}, reads, "counting")
    assert given({"batch": 2}, reads, "counting") == {"data.batch": 2}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BadInput("--slot p", "--adapter names another one", "leave it out"), "slot=p: `adapter` names another one; leave it out"),
        (BadInput("--adapter.r", "none", "see `zofo train --help`"), "adapter__r: none; see `zofo train --help`"),
        (BadInput("--mixture m, task a: --shots 3", "x", "take --no-chat"), "mixture=m, task a: shots=3: x; take chat=False"),
        (BadInput("a--b", "- c --", "add --task NAME, or --config."), "a--b: - c --; add task=NAME, or `config_file`."),
        (BadInput("--data.train my --final.csv", "a/--plain", "use --start fresh"), "data__train=my --final.csv: a/--plain; use `start` fresh"),
        (BadInput("--data.text_column and --data.label_column", "x", "y"), "data__text_column and `data__label_column`: x; y"),
        (BadInput("--slot p`q", "one ` and --slot", "y"), "slot=p`q: one ` and --slot; y"),
    ],
)  # fmt: skip
def test_errors_name_options_as_python_has_them(error: BadInput, told: str) -> None:
    error.add_note("kept")
    with pytest.raises(BadInput) as caught, guest():
        raise error
    assert caught.value is error and str(error) == told and error.args == (error.asked, error.found, error.do)
    assert error.__notes__ == ["kept"] and spoken(error.do) == error.do
