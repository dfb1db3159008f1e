"""What a run works on: the parts of the data, which tensors zeroth order moves, and what is written down of it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zofo import settled
from zofo.config import resolve
from zofo.core.weights.leaves import snapshot
from zofo.errors import BadInput
from zofo.job import PACKAGES, Job, adapter_of, assemble, described, environment, prepare, recorded, same_rows
from zofo.methods.losses import mean_loss
from zofo.models import fingerprint
from zofo.scoring.batch import choice_batch, lm_batch

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 20, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48,
}  # fmt: skip


def made(folder: str, **flags: Any) -> Job:
    settings, given = resolve(SMALL | {"model.name": folder} | {k.replace("__", "."): v for k, v in flags.items()})
    return assemble(settings, prepare(settings, given))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))


def test_no_task_is_bad_input_before_the_tokenizer_is_read(folder: str) -> None:
    settings, _ = resolve({"model.name": folder})
    with pytest.raises(BadInput, match=r"no task was named; name one .*reviews.*--data\.train FILE"):
        prepare(settings)


def test_all_training_rows_are_those_of_both_levels_and_no_row_stands_in_two_parts(folder: str) -> None:
    job = made(folder)
    f, p = job.prepared.encoded["f"], job.prepared.encoded["p"]
    assert (len(f), len(p)) == (7, 13)  # 1 : 2
    assert list(job.batches.parts["all"]) == [*f, *p]
    contexts = [row.context for part in job.prepared.encoded.values() for row in part]
    assert len(set(contexts)) == len(contexts) == 28


def test_mezo_on_an_adapter_moves_ps_own_tensors_and_leaves_the_base(folder: str) -> None:
    job = made(folder, method__name="mezo", method__tune="adapter", method__lr_theta=1e-2, adapter__r=2)
    assert not job.moves_theta and job.slots is not None and job.problem.leaves is not None
    tuned = job.problem.leaves
    assert {leaf.name: id(leaf.param) for leaf in tuned} == {n: id(p) for n, p in job.slots.params["p"].items()}
    for leaf in tuned:
        assert [getattr(module, attr) is leaf.param for module, attr in leaf.owners] == [True]
    base, adapter = snapshot(job.leaves), job.slots.tensors("p")
    job.method.step(job.problem, job.begin(), job.batches)
    assert all(torch.equal(leaf.data, base[leaf.name]) for leaf in job.leaves)
    assert any(not torch.equal(p, adapter[name]) for name, p in job.slots.params["p"].items())


def test_the_environment_names_the_base_by_its_bits(folder: str) -> None:
    job = made(folder)
    found = environment(job)
    assert found["base"] == {"name": folder, "sha256": fingerprint(job.leaves)}
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    with torch.no_grad():
        next(iter(job.leaves)).data.view(-1)[0] += 1
    assert fingerprint(job.leaves) != found["base"]["sha256"]


def test_a_changed_prompt_is_noticed_though_the_rows_are_the_same(folder: str) -> None:
    settings, _ = resolve(SMALL | {"model.name": folder})
    before = prepare(settings)
    record = recorded(before)
    same_rows(record, prepare(settings, task=before.task))
    other = before.task.model_copy(update={"template": "{{ sentence }} So it was"})
    with pytest.raises(BadInput, match="prompts and answers in tokens of D_f are not those of the run"):
        same_rows(record, prepare(settings, task=other))


@pytest.mark.parametrize(
    ("objective", "metrics", "upper", "cut"),
    [
        ("auto", ("accuracy",), False, lm_batch),
        ("classification", ("accuracy",), False, choice_batch),
        ("accuracy", ("accuracy",), True, choice_batch),
        ("f1", ("accuracy", "macro_f1"), True, choice_batch),
    ],
)
def test_the_objective_reaches_task_problem_and_batches(
    folder: str, objective: str, metrics: tuple[str, ...], upper: bool, cut: Any
) -> None:
    job = made(folder, method__objective=objective)
    assert job.prepared.task.metrics == metrics and job.batches.build is cut
    assert (job.problem.upper is not None) == upper == job.objective.higher
    assert job.problem.loss is job.objective.loss and job.problem.upper is job.objective.upper


@pytest.mark.parametrize(
    ("flags", "dtype", "still"),
    [
        ({"model__dtype": "bf16"}, torch.bfloat16, False),
        ({"model__dtype": "fp16"}, torch.float16, False),
        ({"model__dtype": "bf16", "method__lower": "zeroth-order"}, torch.bfloat16, False),
        ({"model__dtype": "bf16", "method__name": "first-order"}, torch.bfloat16, True),
        ({"model__dtype": "bf16", "model__shadow": False}, None, False),
        ({"model__dtype": "fp32"}, None, False),
        ({"model__weights": "bf16"}, None, False),
        ({"model__dtype": "bf16", "method__name": "mezo"}, None, False),
    ],
    ids=str,
)
def test_a_shadow_is_kept_where_adapters_learn_in_a_half_type_over_fp32_weights(
    folder: str, flags: dict[str, Any], dtype: torch.dtype | None, still: bool
) -> None:
    held = made(folder, **flags).problem.shadow
    assert (None if held is None else held.dtype) == dtype
    if held is not None:
        assert held.still == still and not held.twins and held.leaves


@pytest.mark.parametrize("flags", [{}, {"method__coupling": "outer"}, {"method__name": "first-order"}], ids=str)
def test_a_step_through_the_shadow_has_the_bits_of_one_without(folder: str, flags: dict[str, Any]) -> None:
    """Theta moves between the steps, and the shadow with it."""
    ends = []
    for shadow in (True, False):
        job = made(folder, model__dtype="bf16", model__shadow=shadow, adapter__r=2, **flags)
        assert job.slots is not None and (job.problem.shadow is not None) == shadow
        state, told = job.begin(), []
        for _ in range(2):
            state, report = job.method.step(job.problem, state, job.batches)
            told.append(report)
        tensors = {slot: job.slots.tensors(slot) for slot in job.slots.params}
        ends.append((told, tensors, snapshot(job.leaves)))
    (told, adapters, theta), (told_too, adapters_too, theta_too) = ends
    assert told == told_too
    assert all(torch.equal(w, adapters_too[slot][name]) for slot in adapters for name, w in adapters[slot].items())
    assert all(torch.equal(w, theta_too[name]) for name, w in theta.items())


@pytest.mark.parametrize(
    ("flags", "stacks", "scale"),
    [
        ({}, True, 1.0),
        ({"model__dtype": "fp16"}, True, 1024.0),
        ({"method__name": "mezo"}, True, 1.0),
        ({"method__name": "mezo", "method__tune": "adapter"}, False, 1.0),
        ({"method__name": "first-order"}, False, 1.0),
        ({"method__probe": "inplace"}, False, 1.0),
        ({"method__objective": "accuracy"}, False, 1.0),
        ({"method__objective": "classification"}, True, 1.0),
        ({"model__dtype": "bf16", "method__probe_dtype": "fp32"}, True, 1.0),
    ],
    ids=str,
)
def test_what_can_be_stacked_and_what_is_scaled(folder: str, flags: dict[str, Any], stacks: bool, scale: float) -> None:
    problem = made(folder, **flags).problem
    assert (problem.stacks, problem.scale) == (stacks, scale)


def test_probes_may_be_computed_in_another_type_than_gradients(folder: str) -> None:
    """The loss below is bf16's, the one that theta sees fp32's."""
    flags = {"method__probe_dtype": "fp32", "adapter__r": 2}
    job, plain = made(folder, model__dtype="bf16", **flags), made(folder, adapter__r=2)
    batch = job.batches.batch("f", "upper-f", 0, 1)
    with torch.no_grad():
        below, above = (mean_loss(job.problem, batch, "p", upper) for upper in (False, True))
        assert above == mean_loss(plain.problem, batch, "p") != below
    assert job.problem.upper is not None and plain.problem.upper is None
    other = made(folder, model__dtype="bf16", method__probe_dtype="bf16", adapter__r=2).problem
    with torch.no_grad():
        assert other.upper is None and mean_loss(other, batch, "p") == below


def test_only_rows_that_are_scored_have_task_only_twins(folder: str) -> None:
    assert made(folder).prepared.nulls == {}
    ready = made(folder, data__calibration="sfc").prepared
    assert {part: len(rows) for part, rows in ready.nulls.items()} == {"validation": 4, "test": 4}
    assert len({null.context for null in ready.nulls["test"]}) == 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_said_of_scores_is_what_they_were_made_with(folder: str, split: str) -> None:
    flags = {"data.shots": 1, "data.calibration": "icl-sfc", "data.hard_prompt": False, "run.seed": 3}
    settings = settled.plain(resolve(SMALL | {"model.name": folder} | flags)[0])
    ready = prepare(settings)
    found = described(settings, ready, split, "prefix")
    assert found | {"versions": None} == {
        "model": folder, "adapter": "prefix", "dtype": "fp32", "task": "reviews", "template": ready.task.free, "shots": 1, "seed": 3,
        "calibration": "icl-sfc", "split": split, "source": "packaged reviews", "versions": None,
        "rows_sha256": recorded(ready)["parts"][split]["sha256"],
    }  # fmt: skip
    assert set(found["versions"]) == set(PACKAGES) and found["versions"]["torch"] != "?"


def test_an_adapter_is_named_where_a_model_has_one(folder: str) -> None:
    assert adapter_of(made(folder)) == "lora"
    assert adapter_of(made(folder, adapter__kind="prompt")) == "prompt"
    assert adapter_of(made(folder, method__name="mezo")) is None
