"""What a run works on: the parts of the data, which tensors zeroth order moves, and what is written down of it all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zofo import settled
from zofo.core.weights.leaves import snapshot
from zofo.errors import BadInput
from zofo.job import PACKAGES, adapter_of, described, environment, prepare, recorded, same_rows
from zofo.layers import resolve
from zofo.scoring.batch import frugal_batch, lm_batch
from zofo.theta0 import fingerprint


def test_no_task_is_bad_input_before_the_tokenizer_is_read(folder: str) -> None:
    settings, _ = resolve({"model.name": folder})
    with pytest.raises(BadInput, match=r"no task was named; name one .*reviews.*--data\.train FILE"):
        prepare(settings)


def test_all_training_rows_are_those_of_both_levels_and_no_row_stands_in_two_parts(folder: str, made: Any) -> None:
    job = made(folder)
    f, p = job.prepared.encoded["f"], job.prepared.encoded["p"]
    assert (len(f), len(p)) == (7, 13)  # 1 : 2
    assert list(job.batches.parts["all"]) == [*f, *p]
    contexts = [row.context for part in job.prepared.encoded.values() for row in part]
    assert len(set(contexts)) == len(contexts) == 28


def test_mezo_on_an_adapter_moves_ps_own_tensors_and_leaves_the_base(folder: str, made: Any) -> None:
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


def test_the_environment_names_the_base_by_its_bits(folder: str, made: Any) -> None:
    job = made(folder)
    found = environment(job)
    assert found["base"] == {"name": folder, "sha256": fingerprint(job.leaves)}
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    with torch.no_grad():
        next(iter(job.leaves)).data.view(-1)[0] += 1
    assert fingerprint(job.leaves) != found["base"]["sha256"]


def test_a_changed_prompt_is_noticed_though_the_rows_are_the_same(folder: str, small: dict[str, Any]) -> None:
    settings, _ = resolve(small | {"model.name": folder})
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
        ("classification", ("accuracy",), False, frugal_batch),
        ("accuracy", ("accuracy",), True, frugal_batch),
        ("f1", ("accuracy", "macro_f1"), True, frugal_batch),
    ],
)
def test_the_objective_reaches_task_problem_and_batches(
    folder: str, objective: str, metrics: tuple[str, ...], upper: bool, cut: Any, made: Any
) -> None:
    job = made(folder, method__objective=objective)
    assert job.prepared.task.metrics == metrics and job.batches.build is cut
    assert (job.problem.upper is not None) == upper == job.objective.higher
    assert job.problem.loss is job.objective.loss and job.problem.upper is job.objective.upper


def test_only_rows_that_are_scored_have_task_only_twins(folder: str, made: Any) -> None:
    assert made(folder).prepared.nulls == {}
    ready = made(folder, data__calibration="sfc").prepared
    assert {part: len(rows) for part, rows in ready.nulls.items()} == {"validation": 4, "test": 4}
    assert len({null.context for null in ready.nulls["test"]}) == 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_said_of_scores_is_what_they_were_made_with(folder: str, small: dict[str, Any], split: str) -> None:
    flags = {"data.shots": 1, "data.calibration": "icl-sfc", "data.hard_prompt": False, "run.seed": 3}
    settings = settled.plain(resolve(small | {"model.name": folder} | flags)[0])
    ready = prepare(settings)
    found = described(settings, ready, split, "prefix")
    assert found | {"versions": None} == {
        "model": folder, "adapter": "prefix", "dtype": "fp32", "task": "reviews", "template": ready.task.free, "shots": 1, "seed": 3, "channel": False,
        "calibration": "icl-sfc", "split": split, "source": "packaged reviews", "versions": None,
        "rows_sha256": recorded(ready)["parts"][split]["sha256"],
    }  # fmt: skip
    assert set(found["versions"]) == set(PACKAGES) and found["versions"]["torch"] != "?"


def test_an_adapter_is_named_where_a_model_has_one(folder: str, made: Any) -> None:
    assert adapter_of(made(folder)) == "lora"
    assert adapter_of(made(folder, adapter__kind="prompt")) == "prompt"
    assert adapter_of(made(folder, method__name="mezo")) is None
