"""What training minimises: which objective a run has, what the metrics among them are worth, and who descends what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import zofo
from zofo import objectives
from zofo.config import AdapterConfig, Config, MethodConfig, build
from zofo.core import noise
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.job import Job, assemble, prepare
from zofo.layers import resolve
from zofo.methods import mezo
from zofo.methods.check import check
from zofo.methods.state import Problem, Report
from zofo.scoring.batch import Batch, Encoded, choice_batch, lm_batch
from zofo.scoring.objective import choice_losses, row_losses
from zofo.tasks.definition import Task

Tiny = Callable[..., nn.Module]
FIXED = Task(name="fixed", choices=("no", "yes"))
OPTIONS = Task(name="options", options="o", metrics=("accuracy",))
WORDS = Task(name="words", options="o", metrics=("f1", "em"))
FREE = Task(name="free", metrics=("em",), max_new_tokens=5)
CHAT = Task(name="talk", chat="messages", label="messages", metrics=())


def wanted(objective: str, **more: Any) -> Config:
    return build({"method.objective": objective} | {key.replace("__", "."): value for key, value in more.items()})


# Which objective a run has


@pytest.mark.parametrize("own", ["lm", "classification"])
def test_auto_is_what_the_task_says_and_a_word_of_the_user_wins(own: str) -> None:
    task = FIXED.model_copy(update={"objective": own})
    assert objectives.name_of(Config(), task) == own
    for word in ("lm", "classification", "accuracy", "f1"):
        assert objectives.name_of(wanted(word), task) == word


@pytest.mark.parametrize(
    ("objective", "task", "told"),
    [
        ("classification", FREE, "--objective classification: free has no choices; take lm, or f1"),
        ("classification", CHAT, "--objective classification: talk has no choices"),
        ("accuracy", CHAT, "--objective accuracy: talk is made of conversations; take lm"),
        ("f1", CHAT, "--objective f1: talk is made of conversations; take lm"),
    ],
)
def test_an_objective_that_a_task_cannot_have_is_refused(objective: str, task: Task, told: str) -> None:
    for ask in (objectives.name_of, objectives.measured, lambda c, t: objectives.build(c, t, None)):
        with pytest.raises(BadInput, match=told):
            ask(wanted(objective), task)
    assert objectives.name_of(wanted("lm"), task) == "lm"


@pytest.mark.parametrize("objective", ["accuracy", "f1"])
def test_a_metric_is_refused_where_nothing_is_zeroth_order(objective: str) -> None:
    with pytest.raises(BadInput, match=f"--objective {objective}: method first-order needs gradients"):
        check(wanted(objective, method__name="first-order"), ())
    for name in ("bilevel", "mezo"):
        check(wanted(objective, method__name=name), {"method.objective"})
    check(wanted("classification", method__name="first-order"), {"method.objective"})


def test_the_solver_for_other_loops_takes_a_loss_and_no_objective(tiny: Tiny) -> None:
    with pytest.raises(BadInput, match="the objective is the loss that you give; leave it out"):
        zofo.Bilevel(tiny("llama"), AdapterConfig(r=2), loss=lambda m, b: b, objective="lm")


# Metrics and standing

METRICS = [
    ("accuracy", FIXED, "accuracy"),
    ("f1", FIXED, "macro_f1"),
    ("accuracy", OPTIONS, "accuracy"),
    ("f1", OPTIONS, "macro_f1"),
    ("f1", WORDS, "f1"),
    ("accuracy", WORDS, "accuracy"),
    ("accuracy", FREE, "em"),
    ("f1", FREE, "f1"),
]


@pytest.mark.parametrize(("objective", "task", "metric"), METRICS)
def test_the_objectives_metric_is_measured_beside_the_tasks_own_and_decides(
    objective: str, task: Task, metric: str
) -> None:
    found = objectives.measured(wanted(objective), task)
    assert found.metrics == (task.metrics if metric in task.metrics else (*task.metrics, metric))
    assert found.model_copy(update={"metrics": task.metrics}) == task
    Task.model_validate(found.model_dump())  # such a task may have this metric
    made = objectives.build(wanted(objective), task, None)
    assert (made.by, made.higher) == (metric, True)


@pytest.mark.parametrize("objective", ["auto", "lm", "classification"])
def test_a_loss_asks_for_no_metric(objective: str) -> None:
    assert objectives.measured(wanted(objective), FIXED) is FIXED


@pytest.mark.parametrize(("objective", "by"), [("lm", "loss"), ("classification", "choice_loss"), ("f1", "macro_f1")])
def test_the_better_result_stands_lower(objective: str, by: str) -> None:
    made = objectives.build(wanted(objective), FIXED, None)
    results = [{"loss": 9.0, "choice_loss": 9.0, "macro_f1": 0.5} | {by: value} for value in (0.1, 0.2, 0.7)]
    ordered = sorted(results, key=made.standing)
    assert ordered == (results[::-1] if by == "macro_f1" else results)


# What the losses and metrics are worth


def rows(texts: Sequence[tuple[str, ...]] = ()) -> list[Encoded]:
    """Rows with three answers of one and two tokens; of some two are right."""
    draw = torch.Generator().manual_seed(8)
    found = []
    for k in range(12):
        context = tuple(torch.randint(3, 96, (3 + k % 5,), generator=draw).tolist())
        right = (k % 3, (k + 1) % 3) if k % 4 == 0 else (k % 3,)
        own = texts[k % len(texts)] if texts else ("x", "y", "z")
        found.append(Encoded(context, ((10,), (11, 12), (13,)), right[0], right=right, texts=own))
    return found


@torch.no_grad()
def choice(model: nn.Module, example: Encoded) -> int:
    """The answer with the highest mean log-probability, each read on its own with logits everywhere."""
    scores = []
    for k, answer in enumerate(example.answers):
        ids = torch.tensor([example.context + answer])
        every = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        size = len(answer) - (example.skip[k] if example.skip else 0)
        at = range(ids.shape[1] - size, ids.shape[1])
        scores.append(sum(float(every[i - 1, ids[0, i]]) for i in at) / size)
    return scores.index(max(scores))


def upper(objective: str, task: Task, tokenizer: Any = None) -> Callable[[nn.Module, Batch], torch.Tensor]:
    found = objectives.build(wanted(objective), task, tokenizer).upper
    assert found is not None
    return found


@pytest.fixture
def model(tiny: Tiny) -> nn.Module:
    return tiny("opt")


def test_a_loss_is_what_both_levels_minimise(model: nn.Module) -> None:
    for objective, loss, cut in (("lm", row_losses, lm_batch), ("classification", choice_losses, choice_batch)):
        made = objectives.build(wanted(objective), OPTIONS, None)
        assert made.upper is None and not made.higher
        mine, theirs = made.cut(rows(), range(12), 0), cut(rows(), range(12), 0)
        torch.testing.assert_close(made.loss(model, mine), loss(model, theirs), atol=0, rtol=0)


@pytest.mark.parametrize(("objective", "task"), [row[:2] for row in METRICS])
def test_beside_a_metric_stands_the_lm_loss_with_its_gradient(model: nn.Module, objective: str, task: Task) -> None:
    made = objectives.build(wanted(objective), task, None)
    mine = made.loss(model, made.cut(rows(), range(12), 0))
    torch.testing.assert_close(mine, row_losses(model, lm_batch(rows(), range(12), 0)))
    assert mine.requires_grad


def test_accuracy_is_minus_one_for_each_row_answered_rightly(model: nn.Module) -> None:
    by_hand = [float(choice(model, example) in example.rights) for example in rows()]
    assert 0 < sum(by_hand) < 12
    assert upper("accuracy", OPTIONS)(model, choice_batch(rows(), range(12), 0)).tolist() == [-v for v in by_hand]


def test_macro_f1_is_that_of_the_micro_batch_for_each_of_its_rows(model: nn.Module) -> None:
    for index in (range(12), range(2, 9), [4]):
        batch = choice_batch(rows(), index, 0)
        said = [choice(model, rows()[k]) for k in index]
        gold = [c if c in rows()[k].rights else rows()[k].label for c, k in zip(said, index, strict=True)]
        value = f1_score(gold, said, average="macro")
        assert upper("f1", OPTIONS)(model, batch).tolist() == pytest.approx([-value] * len(said), abs=1e-6)


def test_f1_of_options_is_that_of_their_words(model: nn.Module) -> None:
    texts = ("the red cat", "A cat!", "dog")
    worth = {(0, 0): 1.0, (1, 1): 1.0, (2, 2): 1.0, (0, 1): 2 / 3, (1, 0): 2 / 3}  # others: 0
    by_hand = [max(worth.get((choice(model, e), r), 0.0) for r in e.rights) for e in rows()]
    assert {0.0, 1.0} <= set(by_hand) and 2 / 3 in by_hand
    found = upper("f1", WORDS)(model, choice_batch(rows([texts]), range(12), 0))
    assert found.tolist() == pytest.approx([-v for v in by_hand], abs=1e-6)


@pytest.fixture
def writer(folder: str) -> Iterator[tuple[nn.Module, Any]]:
    """A model that writes bytes, and its tokenizer."""
    yield AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def written(model: nn.Module, tokenizer: Any, context: tuple[int, ...], most: int = 5) -> str:
    """The likeliest token after token, until the end of the text or of the line."""
    ids = list(context)
    for _ in range(most):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return str(tokenizer.decode(ids[len(context) :])).split("\n")[0].strip()


def prompts(tokenizer: Any, *accepted: tuple[str, ...]) -> list[Encoded]:
    """Rows with free answers."""
    texts = [tuple(tokenizer(f"row {'x' * k} {k}:")["input_ids"]) for k in range(len(accepted))]
    answer = tuple(tokenizer(" y")["input_ids"])
    return [Encoded(context, (answer,), 0, texts=own) for context, own in zip(texts, accepted, strict=True)]


def test_a_free_answer_is_worth_the_f1_or_the_exact_match_of_what_is_generated(writer: Any) -> None:
    model, tokenizer = writer
    said = [written(model, tokenizer, row.context) for row in prompts(tokenizer, *[("",)] * 4)]
    assert all(len(text.split()) == 1 for text in said), said
    accepted = [(said[0],), ("else", f"{said[1]} more words"), ("quite else",), ("other", f"The {said[3]}!")]
    batch = lm_batch(prompts(tokenizer, *accepted), range(4), 0)
    assert upper("f1", FREE, tokenizer)(model, batch).tolist() == pytest.approx([-1, -2 / 4, 0, -1], abs=1e-6)
    assert upper("accuracy", FREE, tokenizer)(model, batch).tolist() == [-1, 0, 0, -1]


# Who descends what

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 30, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 8,
    "data.max_length": 48, "method.lr_theta": 1e-2, "method.eps": 0.3,
}  # fmt: skip
BELOW = {"method.T": 2, "method.lam": 3, "method.optimizer": "sgd", "method.clip": 0, "method.init": "independent"}
BELOW |= {"method.lr_p": 0.1, "method.lr_s": 0.2}


def stepped(folder: str, objective: str, **flags: Any) -> tuple[Job, dict[str, torch.Tensor], Report]:
    """A job after one step, theta before it, and the step's report."""
    options = SMALL | {"model.name": folder, "method.objective": objective} | flags
    settings, given = resolve(options)
    job = assemble(settings, prepare(settings, given))
    before = tree.snapshot(job.leaves)
    _, report = job.method.step(job.problem, job.begin(), job.batches)
    return job, before, report


def noise_of(problem: Problem) -> dict[str, torch.Tensor]:
    """z of the first step."""
    assert problem.leaves is not None
    (z,) = problem.directions(0)
    return {leaf.name: noise.draw(z, leaf.tid, leaf.data.numel()).view_as(leaf.data) for leaf in problem.leaves}


@torch.no_grad()
def difference(problem: Problem, before: dict[str, torch.Tensor], value: Callable[[], float]) -> float:
    """[ f(theta + eps z) - f(theta - eps z) ] / (2 eps), with theta in the open; theta is put back as it was found."""
    assert problem.leaves is not None
    z, eps, found = noise_of(problem), problem.config.eps, []
    now = tree.snapshot(problem.leaves)
    problem.model.eval()
    for a in (eps, -eps):
        for leaf in problem.leaves:
            leaf.data.copy_(before[leaf.name] + a * z[leaf.name])
        found.append(value())
    for leaf in problem.leaves:
        leaf.data.copy_(now[leaf.name])
    return (found[0] - found[1]) / (2 * eps)


def lost(job: Job, batch: Batch, slot: str | None, objective: str) -> float:
    """Minus accuracy, or minus macro-F1, of a batch, by hand."""
    if slot is not None and job.slots is not None:
        job.slots.use(slot)
    said = [choice(job.model, example) for example in batch.examples]
    gold = [example.label for example in batch.examples]
    if objective == "f1":
        return -float(f1_score(gold, said, average="macro"))
    return -sum(a == b for a, b in zip(said, gold, strict=True)) / len(gold)


def went_along(problem: Problem, before: dict[str, torch.Tensor], c: float) -> None:
    """theta has gone to theta - lr c z."""
    z, lr = noise_of(problem), problem.config.lr_theta
    for leaf in problem.leaves or ():
        wanted = (before[leaf.name] - lr * c * z[leaf.name]).float()
        torch.testing.assert_close(leaf.data, wanted, atol=1e-6, rtol=1e-5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("objective", ["accuracy", "f1"])
def test_theta_descends_the_metric_while_p_and_s_descend_the_lm_loss(folder: str, objective: str) -> None:
    job, before, report = stepped(folder, objective, **BELOW)
    plain, _, other = stepped(folder, "lm", **BELOW)
    assert job.slots is not None and plain.slots is not None
    for slot in ("p", "s"):
        started = assemble(job.config, job.prepared).slots
        assert started is not None
        for name, tensor in plain.slots.tensors(slot).items():
            torch.testing.assert_close(job.slots.params[slot][name].data, tensor, atol=1e-5, rtol=1e-4)
        moved = [(started.params[slot][n].data - w).abs().max() for n, w in plain.slots.tensors(slot).items()]
        assert max(moved) > 1e-3
        assert report.numbers[f"loss_{slot}"] == pytest.approx(other.numbers[f"loss_{slot}"], rel=1e-5)
    f, p = (job.batches.batch(part, f"upper-{part}", 0, 1)[0] for part in "fp")
    by_hand = {
        name: difference(job.problem, before, lambda batch=batch, slot=slot: lost(job, batch, slot, objective))
        for name, batch, slot in (("A", f, "p"), ("B", p, "p"), ("C", p, "s"))
    }
    assert {n: report.numbers[f"c_{n}"] for n in by_hand} == pytest.approx(by_hand, abs=1e-5)
    c = by_hand["A"] + 3 * (by_hand["B"] - by_hand["C"])
    assert c != 0 and report.numbers["c"] == pytest.approx(c, abs=1e-5)
    assert abs(c - other.numbers["c"]) > 1e-2
    went_along(job.problem, before, c)


@pytest.mark.parametrize("objective", ["accuracy", "f1"])
def test_mezo_descends_the_metric(folder: str, objective: str) -> None:
    job, before, report = stepped(folder, objective, **{"method.name": "mezo", "run.seed": 2})
    (batch,) = job.batches.batch("all", "train", 0, 1)
    c = difference(job.problem, before, lambda: lost(job, batch, None, objective))
    assert c != 0 and report.numbers["c"] == pytest.approx(c, abs=1e-5)
    assert -1 <= report.numbers["A"] <= 0 and report.backwards == 0
    went_along(job.problem, before, c)


def test_mezo_descends_the_f1_of_what_the_probed_model_writes(writer: Any) -> None:
    model, tokenizer = writer
    leaves = tree.find(model.requires_grad_(False))
    made = objectives.build(wanted("f1"), FREE, tokenizer)
    config = MethodConfig(name="mezo", eps=0.3, lr_theta=1e-2)
    problem = Problem(model, made.loss, config, 0, 5, leaves, Scratch(model, leaves), None, made.upper)
    before, said = tree.snapshot(leaves), []

    def write() -> float:
        said.append([written(model, tokenizer, row.context) for row in prompts(tokenizer, *[("",)] * 3)])
        return 0.0

    difference(problem, before, write)
    plus, minus = said
    assert all(plus) and all(a != b for a, b in zip(plus, minus, strict=True))
    accepted = [(plus[0],), (f"{plus[1]} more",), ("quite else",)]
    f1 = (1 + 2 / 3) / 3  # at theta + eps z; there each text is one word

    class Same:
        """Always these rows."""

        def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
            return [lm_batch(prompts(tokenizer, *accepted), range(3), 0)]

    assert all(len(text.split()) == 1 for text in plus[:2])
    _, report = mezo.step(problem, mezo.init(problem), Same())  # type: ignore[arg-type]
    assert report.numbers["c"] == pytest.approx(-f1 / (2 * 0.3), abs=1e-5)
    went_along(problem, before, report.numbers["c"])
