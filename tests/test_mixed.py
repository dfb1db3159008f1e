"""A mixture's rows: each task's own, no text on both sides, and bad input that names task, file and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo import objectives
from zofo.errors import BadInput
from zofo.job import Prepared, prepare, recorded, same_rows
from zofo.layers import resolve
from zofo.tasks.mixture import find

Mixture = Callable[..., Prepared]
Lay = Callable[..., Path]


@pytest.fixture
def ready(folder: str, mixed: Path, cache: Path) -> Mixture:
    """Prepare the toy mixture, or another: `ready(data__shots=2)`."""

    def made(place: Path = mixed, wanted: Any = ("f", "p", "validation", "test"), **flags: Any) -> Prepared:
        options = {"model.name": folder, "data.mixture": str(place)}
        settings, given = resolve(options | {key.replace("__", "."): value for key, value in flags.items()})
        return prepare(settings, given, wanted=wanted)

    return made


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Write tasks as folders, rows by task and part, and a YAML: `lay("train: [a]", a={"train": [...], "test": [...]})`."""

    def written(text: str, **tasks: dict[str, list[dict[str, Any]]]) -> Path:
        for name, parts in tasks.items():
            (tmp_path / name).mkdir()
            for part, rows in parts.items():
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (tmp_path / name / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "m.yaml"

    return written


def rows(name: str, n: int = 6, options: tuple[str, ...] = ("x", "y"), start: int = 0) -> list[dict[str, Any]]:
    """Rows in MetaICL's form."""
    return [
        {"input": f"{name} {k}", "output": options[k % len(options)] if options else "z", "options": list(options)}
        for k in range(start, start + n)
    ]


def task(name: str, options: tuple[str, ...] = ("x", "y")) -> dict[str, list[dict[str, Any]]]:
    return {"train": rows(name, 6, options), "test": rows(name, 4, options, 6)}


def test_defaults_of_a_mixture_are_256_upper_and_512_lower_rows_a_task(mixed: Path) -> None:
    settings, _ = resolve({"data.mixture": str(mixed)})
    data = settings.data
    assert (data.train_rows, round(data.train_rows * data.upper_share), data.validation_rows) == (768, 256, 32)
    settings, _ = resolve({"data.mixture": str(mixed), "data.validation_rows": 5})
    assert (settings.data.train_rows, settings.data.validation_rows) == (768, 5)
    assert resolve({"data.task": "reviews"})[0].data.train_rows == 1000


def test_a_training_task_trains_on_its_whole_training_file_and_is_validated_on_its_test_file(ready: Mixture) -> None:
    found = ready()
    assert [(m.task.name, m.side) for m in found.members] == [
        ("own/a", "train"), ("own/b", "train"), ("own/four", "train"), ("own/free", "train"), ("own/c", "test"), ("own/d", "test"),
    ]  # fmt: skip
    for member in found.of("train"):
        assert [len(member.encoded[part]) for part in ("f", "p", "validation", "test")] == [4, 8, 8, 0]
        assert {row["input"].split()[-1] for row in member.splits.validation} == {str(k) for k in range(12, 20)}
    for member in found.of("test"):
        assert [len(member.encoded[part]) for part in ("f", "p", "validation", "test")] == [0, 0, 0, 8]
    assert any("own/a, own/b, own/four, own/free: train: 12 rows taken where 768" in note for note in found.notes)


def test_the_whole_holds_its_members_rows_end_to_end(ready: Mixture) -> None:
    found = ready()
    for part in ("f", "p", "validation", "test"):
        assert list(found.encoded[part]) == [row for m in found.members for row in m.encoded[part]]
    assert len(found.splits.D_p) == len(found.encoded["p"]) == 32
    assert found.task.name == "toy" and found.splits.record["source"] == "4 training and 2 unseen tasks"


def test_the_record_holds_every_tasks_rows_and_a_change_names_the_task(ready: Mixture, lay: Lay) -> None:
    place = lay("train: [a, b]\ntest: [c]", a=task("a"), b=task("b"), c=task("c"))
    record = recorded(ready(place))
    held = record["members"]
    assert set(held) == {"own/a", "own/b", "own/c"} and set(held["own/c"]["parts"]) == {"test"}
    assert held["own/a"]["parts"]["validation"]["of"] == "test" and held["own/a"]["side"] == "train"
    assert len({part["sha256"] for member in held.values() for part in member["parts"].values()}) == 7
    same_rows(json.loads(json.dumps(record)), ready(place))
    changed = rows("b")
    changed[2]["output"] = "y"
    (place.parent / "b" / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8"
    )
    with pytest.raises(BadInput, match="task own/b: the rows of D_"):
        same_rows(record, ready(place))


def test_only_what_is_wanted_is_read(ready: Mixture, mixed: Path) -> None:
    found = ready(wanted=("test",))
    assert [m.task.name for m in found.members] == ["own/c", "own/d"] and set(found.encoded) == {"test"}
    assert not any("train" in note for note in found.notes)


def test_demonstrations_come_from_a_rows_own_task(ready: Mixture) -> None:
    found = ready(data__shots=1, data__max_length=64)
    for member in found.members:
        word = member.task.name.removeprefix("own/")
        for part in member.encoded.values():
            for row in part:
                text = found.tokenizer.decode(row.context)
                assert text.count(" row ") == 2 - row.left_out and text.count(f"{word} row") == text.count(" row ")


def test_the_objective_is_what_the_tasks_share_else_the_lm_loss_and_it_is_said(ready: Mixture, lay: Lay) -> None:
    found = ready()
    assert objectives.name_of(resolve({})[0], found.task) == "lm" and not any("LM loss" in note for note in found.notes)
    own = "name: {n}\ntemplate: '{{{{ input }}}}'\nlabel: output\noptions: options\nobjective: {o}\nfiles: {{train: {n}/train.jsonl, test: {n}/test.jsonl}}\n"
    place = lay("train: [a.yaml, b.yaml]\ntest: [c]", a=task("a"), b=task("b"), c=task("c"))
    for objectives_, name, said in (
        (("classification", "lm"), "lm", True),
        (("classification",) * 2, "classification", False),
    ):
        for word, objective in zip("ab", objectives_, strict=True):
            (place.parent / f"{word}.yaml").write_text(own.format(n=word, o=objective), encoding="utf-8")
        found = ready(place)
        assert found.task.objective == name
        assert (
            any("are trained on the LM loss: a would be trained by classification" in note for note in found.notes)
            is said
        )


def test_a_metric_is_no_objective_of_a_mixture(ready: Mixture) -> None:
    with pytest.raises(BadInput, match="--objective accuracy: a mixture is trained on a loss"):
        ready(method__objective="accuracy")
    with pytest.raises(BadInput, match=r"--objective classification: (own/free|toy) has no choices"):
        ready(method__objective="classification")


def test_a_text_that_is_trained_on_and_tested_on_is_refused_with_both_places(ready: Mixture, lay: Lay) -> None:
    other = task("c")
    other["test"][2]["input"] = "  A   3 "
    place = lay("train: [a]\ntest: [c]", a=task("a"), c=other)
    told = r"the text of .*c/test\.jsonl, row 3 of the unseen task own/c is that of .*a/train\.jsonl, row 4 of the training task own/a"
    for n in (4, 1):  # also where the row is not among those that a run takes: `zofo adapt` takes others
        with pytest.raises(BadInput, match=told):
            ready(place, data__test_rows=n)


def test_a_text_with_other_options_and_punctuation_is_found(ready: Mixture, lay: Lay) -> None:
    one, other = task("a"), task("c")
    one["train"][3]["input"] = "It was a long, dull evening."
    other["test"][2]["input"] = "it was a long dull evening"
    for row in (*other["train"], *other["test"]):
        row["options"], row["output"] = ["u", "v"], {"x": "u", "y": "v"}[row["output"]]
    place = lay("train: [a]\ntest: [c]", a=one, c=other)
    with pytest.raises(
        BadInput, match=r"c/test\.jsonl, row 3 of the unseen task own/c is that of .*a/train\.jsonl, row 4"
    ):
        ready(place)


def test_without_a_test_file_all_rows_of_an_unseen_task_are_looked_at(ready: Mixture, lay: Lay) -> None:
    """Which of them are set apart goes by a seed, and adapting has another than training."""
    lay("", a=task("a"))
    for k in range(4):
        other = {"train": rows("c")}
        other["train"][k]["input"] = "a 3"
        place = lay(f"train: [a]\ntest: [c{k}]", **{f"c{k}": other})
        with pytest.raises(BadInput, match=rf"c{k}/train\.jsonl, row {k + 1} of the unseen task own/c{k} is that of"):
            ready(place)


def test_one_set_of_data_under_two_names_is_refused(ready: Mixture, lay: Lay) -> None:
    """Its test rows would choose the checkpoint under the one name, and be unseen under the other."""
    place = lay("train: [a]\ntest: [other]", a=task("a"), other=task("a"))
    with pytest.raises(
        BadInput, match=r"of the unseen task own/other is that of .*test\.jsonl, row . of the training task own/a"
    ):
        ready(place)


def test_validation_rows_that_another_task_trains_on_are_told(ready: Mixture, lay: Lay) -> None:
    other = task("b")
    other["test"][1]["input"] = "a 3"
    place = lay("train: [a, b]", a=task("a"), b=other)
    told = "validation: 1 rows of own/b have the text of a row that another task trains on"
    assert [note for note in ready(place).notes if "another task" in note] == [told]


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        ("kind: classification\ntrain: [a, b]", {"b": task("b", ())}, r"task own/b: --data\.train .*b/train\.jsonl, row 1: it has no options"),
        (
            "[a, b]", {"b": {"train": rows("b", 6, ("x", "y")), "test": [{"input": "i", "output": "x"}]}},
            r"task own/b: --data\.test .*b/test\.jsonl, row 1: no field 'options'",
        ),
        (
            "[a, b]", {"b": {"train": [row | {"options": ["x", "y", "z"]} for row in rows("b")], "test": []}},
            r"task own/b: --data\.test .*b/test\.jsonl: no rows",
        ),
        (
            "[a, b]", {"b": {part: [r | {"options": ["x", "y", "z"]} for r in held] for part, held in task("b").items()}},
            r"task own/b: --data\.train .*b/train\.jsonl, row 1: option 'z' is the answer of no row",
        ),
        (
            "[a, b]", {"b": {"train": [*rows("b"), {"input": "i", "output": "w", "options": ["x", "y"]}], "test": rows("t")}},
            r"task own/b: --data\.train .*b/train\.jsonl, row 7: field 'output' is 'w'; it must be one of 0, 1, x, y",
        ),
        ("test: [a]", {}, r"--mixture .*m.yaml: it has no training tasks"),
    ],
)  # fmt: skip
def test_bad_rows_are_one_line_with_task_file_and_row(
    ready: Mixture, lay: Lay, text: str, change: Any, told: str
) -> None:
    with pytest.raises(BadInput, match=told) as error:
        ready(lay(text, a=task("a"), **change))
    assert "\n" not in str(error.value)


def test_an_option_that_no_row_of_a_shipped_task_has_is_told(
    ready: Mixture, lay: Lay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The published data is as it is: trec-finegrained has such options."""
    place = lay("train: [crossfit/trec]")
    held = {part: [r | {"options": ["x", "y", "z"]} for r in own] for part, own in task("trec").items()}
    import gzip

    (tmp_path / "crossfit" / "trec").mkdir(parents=True)
    for part, own in held.items():
        text = "".join(json.dumps(row) + "\n" for row in own)
        (tmp_path / "crossfit" / "trec" / f"{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("ZOFO_DATA", str(tmp_path))
    assert "crossfit/trec: options that are no row's answer: z" in ready(place).notes


def test_without_unseen_tasks_nothing_is_there_to_test(ready: Mixture, lay: Lay) -> None:
    place = lay("[a]", a=task("a"))
    assert ready(place).encoded["test"] == ()
    with pytest.raises(BadInput, match="it has no unseen tasks"):
        ready(place, wanted=("test",))


def test_the_shipped_lists_hold_no_text_on_both_sides(ready: Mixture) -> None:
    """On the real data; `prepare` refuses what shares texts."""
    import os

    if not os.environ.get("ZOFO_DATA"):
        pytest.skip("ZOFO_DATA is not set")
    from zofo.mixed import refuse_shared
    from zofo.tasks import files
    from zofo.tasks.splits import split

    for name in ("qa-to-qa", "non-class-to-class"):
        settings, _ = resolve({"data.mixture": name})
        made = [
            Prepared(own, split(own, settings.data, 0), None, None, {}, {}, [], side=side)  # type: ignore[arg-type]
            for side, own in find(name).sides()
        ]
        refuse_shared(made, name, {own.name: files.load(own) for _, own in find(name).sides()})
