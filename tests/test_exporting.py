"""What is exported loads with plain transformers and peft and scores the same."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from zofo import begin, exporting
from zofo.core.weights.leaves import find
from zofo.errors import BadInput, ZofoError
from zofo.exporting import export, exported
from zofo.job import prepare
from zofo.layers import resolve
from zofo.measure import evaluate
from zofo.report.terminal import Quiet
from zofo.run import seam
from zofo.run.folder import RunFolder
from zofo.run.signals import Interrupted
from zofo.saved import open_run
from zofo.scoring.batch import choice_batch
from zofo.scoring.objective import answer_logprobs
from zofo.theta0 import fingerprint

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 6, "data.test_rows": 8, "data.batch": 2,
    "data.max_length": 48, "run.steps": 2, "run.eval_every": 1, "run.save_every": 1, "run.threads": 1,
}  # fmt: skip
LARGE = {"method.lr_theta": 1e-4, "method.T": 2, "method.lr_p": 3e-2, "method.lr_s": 3e-2}
CASES: dict[str, dict[str, Any]] = {
    "lora": LARGE,
    "prefix": LARGE | {"adapter.kind": "prefix"},
    "prompt": LARGE | {"adapter.kind": "prompt"},
    "mezo": {"method.name": "mezo", "method.lr_theta": 1e-4},
    "tied head": {"method.name": "first-order", "method.lr_p": 3e-2, "adapter.targets": ["q_proj", "lm_head"]},
    "first-order": {"method.name": "first-order", "method.lr_p": 3e-2},
    "half mezo": {"method.name": "mezo", "method.lr_theta": 1e-2, "model.weights": "bf16"},
    "half bilevel": LARGE | {"method.lr_theta": 1e-2, "model.weights": "bf16"},
}


@pytest.fixture(scope="module")
def trained(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """A run of each case, made when it is first asked for."""
    home = tmp_path_factory.mktemp("runs")

    @functools.cache
    def make(case: str) -> RunFolder:
        flags = SMALL | CASES[case] | {"model.name": folder, "run.dir": str(home), "run.name": case}
        begin.start(*resolve(flags), Quiet())
        return RunFolder(home / case)

    return make


@pytest.fixture(autouse=True)
def cache(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))


def scores(model: Any, rows: Any) -> torch.Tensor:
    with torch.no_grad():
        return answer_logprobs(model.eval(), choice_batch(rows, range(len(rows)), 0))


@pytest.mark.parametrize("case", ["lora", "mezo", pytest.param("first-order", marks=pytest.mark.slow)])
def test_merged_weights_load_as_plain_transformers_and_score_the_same(trained: Any, tmp_path: Path, case: str) -> None:
    run = trained(case)
    with pytest.raises(BadInput, match=r"export\(which='first'\): unknown"):
        export(case, tmp_path / "out", which="first", dir=run.path.parent)
    out = export(case, tmp_path / "out", dir=run.path.parent)
    assert out == tmp_path / "out"
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    saved = open_run(run, say=print)
    ready = prepare(saved.config)
    rows = ready.encoded["test"]
    torch.testing.assert_close(scores(plain, rows), scores(saved.model, rows), atol=2e-5, rtol=0)
    told = json.loads(run.eval.read_text())
    result = evaluate(plain, rows, ready.task)
    assert result["accuracy"] == told["results"][told["used"]]["accuracy"]
    assert result["loss"] == pytest.approx(told["results"][told["used"]]["loss"], abs=1e-5)
    AutoTokenizer.from_pretrained(out)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("case", ["lora", "prefix", pytest.param("prompt", marks=pytest.mark.slow), "tied head"])
def test_adapter_and_base_side_by_side_load_with_peft_and_score_the_same(
    trained: Any, folder: str, tmp_path: Path, case: str
) -> None:
    run = trained(case)
    out = exported(run, tmp_path / "out", merge=False)
    base = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    both = PeftModel.from_pretrained(base, out / "adapter")
    saved = open_run(run, say=print)
    ready = prepare(saved.config)
    rows = ready.encoded["test"]
    torch.testing.assert_close(scores(both, rows), scores(saved.model, rows), atol=2e-5, rtol=0)
    assert json.loads((out / "zofo.json").read_text())["theta_sha256"]
    assert json.loads((out / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert not (out / "adapter/README.md").exists(), "peft's names the untrained base, by a path of this machine"
    pair = [AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32) for place in (out / "base", folder)]
    moved = [(a != b).any() for a, b in zip(*(model.parameters() for model in pair), strict=True)]
    assert all(moved) == (case != "tied head"), "theta was trained, and the exported base must be the trained one"


@pytest.mark.parametrize("case", ["prefix", "prompt"])
def test_merging_a_prefix_or_prompt_is_a_clear_error(trained: Any, tmp_path: Path, case: str) -> None:
    run = trained(case)
    with pytest.raises(BadInput, match=r"--merge: a .* cannot be merged into weights"):
        exported(run, tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_lora_on_a_tied_head_stays_beside_its_base(trained: Any, tmp_path: Path) -> None:
    """Merged, its change would be the embedding's too."""
    run = trained("tied head")
    with pytest.raises(BadInput, match=r"--merge: the adapter changes .*lm_head, whose weight is another module's too"):
        exported(run, tmp_path / "out", merge=True)
    assert (exported(run, tmp_path / "out") / "adapter").is_dir()


def test_an_existing_folder_is_refused_and_a_slot_can_be_chosen(trained: Any, tmp_path: Path) -> None:
    run = trained("lora")
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match="it exists"):
        exported(run, tmp_path / "there")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="it exists"):
        exported(run, tmp_path / "dangling")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is no folder"):
        exported(run, tmp_path / "file" / "out")
    out = exported(run, tmp_path / "out", slot="p", which="last")
    assert json.loads((out / "zofo.json").read_text()) | {"theta_sha256": ""} == {
        "name": "lora", "step": 2, "which": "last", "used": "p", "theta_sha256": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "merge"), [("mezo", None), ("bilevel", False), pytest.param("bilevel", True, marks=pytest.mark.slow)]
)
def test_half_weights_are_exported_to_the_bit_for_whoever_loads_them(
    trained: Any, tmp_path: Path, method: str, merge: bool | None
) -> None:
    """Vectors are kept in fp32 beside bf16 matrices, which `from_pretrained` by itself would round."""
    run = trained(f"half {method}")
    out = exported(run, tmp_path / "out", merge=merge)
    saved = open_run(run, say=print)
    plain = AutoModelForCausalLM.from_pretrained(out if merge is not False else out / "base")
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    if merge:
        assert saved.slots is not None
        rows = prepare(saved.config).encoded["test"]
        torch.testing.assert_close(scores(plain, rows), scores(saved.model.float(), rows), atol=2e-5, rtol=0)
        return
    there = dict(plain.named_parameters())
    assert all(torch.equal(there[leaf.name], leaf.data.float()) for leaf in saved.held.leaves)
    assert fingerprint(find(plain)) == json.loads((out / "zofo.json").read_text())["theta_sha256"]


class Recorder(seam.Disk):
    """A disk that notes what was fsynced and renamed, in order."""

    def __init__(self) -> None:
        self.log = list[str]()

    def fsync(self, file: int) -> None:
        self.log.append(os.readlink(f"/proc/self/fd/{file}"))

    def rename(self, old: Path, new: Path) -> None:
        self.log.append("renamed")
        super().rename(old, new)


@pytest.mark.parametrize(("merge", "mask"), [(True, 0o022), (False, 0o077)])
def test_it_is_fsynced_before_it_has_its_name_and_readable_as_the_umask_says(
    trained: Any, tmp_path: Path, merge: bool, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, disk = trained("lora"), Recorder()
    monkeypatch.setattr(seam, "disk", disk)
    before = os.umask(mask)
    try:
        out = exported(run, tmp_path / "out", merge=merge)
    finally:
        os.umask(before)
    found = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in found)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (out, *out.rglob("*"))}
    assert modes == {0o777 & ~mask, 0o666 & ~mask}
    synced = disk.log[: disk.log.index("renamed")]
    assert {Path(path).name for path in synced} == {path.name for path in found} and len(synced) == len(found)


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
@pytest.mark.parametrize("merge", [True, False])
def test_a_full_disk_is_one_line_and_nothing_is_left(trained: Any, tmp_path: Path, merge: bool, limit: int) -> None:
    """RLIMIT_FSIZE stands for the disk: a real failure in the middle of a file."""
    run = trained("lora")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            ZofoError, match=r"out: the file is larger .* free\); make room, then export again"
        ) as caught:
            exported(run, tmp_path / "out", merge=merge)
        assert caught.value.status == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_nothing_is_left(
    trained: Any, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("lora")

    def write(saved: Any, out: Path, merge: bool) -> str:
        (out / "base").mkdir(parents=True)
        os.kill(os.getpid(), number)
        time.sleep(60)
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(exporting, "write", write)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        exported(run, tmp_path / "out")
    assert caught.value.status == 128 + number and os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_dead_processes_left_of_it_is_swept_and_nothing_else(trained: Any, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    kept = [f"out.tmp-{os.getppid()}", f"another.tmp-{child}", f"my-out.tmp-{child}"]
    for name in (f"out.tmp-{child}", *kept):
        (tmp_path / name / "base").mkdir(parents=True)
    exported(trained("lora"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted(["out", *kept])
