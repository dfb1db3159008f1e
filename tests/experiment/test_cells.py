"""The cells of a grid: how many, with what steps, and which are the same run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.experiment import cells
from zofo.experiment.grid import Grid
from zofo.run.folder import check_name


def plan(grid: Grid) -> list[tuple[str, int, dict[str, Any]]]:
    made = cells.finals(grid, cells.rehearsed(grid))
    return [(cell.row, cell.seed, cell.values) for cell in made]


def test_the_sweep_is_on_its_own_seeds_and_the_table_on_all(make) -> None:
    grid = make()
    assert [(c.row, c.seed, c.values) for c in cells.sweeps(grid)] == [
        ("lora", 0, {"method.lr_p": 1e-3}), ("lora", 0, {"method.lr_p": 1e-2}),
    ]  # fmt: skip
    low = {"method.lr_p": 1e-3}
    assert plan(grid) == [
        ("lora", 0, low), ("lora", 1, low), ("bilevel", 0, {}), ("bilevel", 1, {}), ("zero-shot", 0, {}), ("zero-shot", 1, {}),
    ]  # fmt: skip


def test_counts_of_a_full_grid(make) -> None:
    rows = [
        {"name": f"r{k}", "preset": "fo-lora", "sweep": {"method.lr_p": [1e-3, 1e-4], "method.clip": [0, 1, 2]}}
        for k in range(3)
    ]
    grid = make(tasks=["sst2", "rte"], seeds=[0, 1, 2], rows=rows, against="r0", sweep={"seeds": [0, 5]})
    assert len(cells.sweeps(grid)) == 2 * 3 * 6 * 2
    assert len(cells.finals(grid, cells.rehearsed(grid))) == 2 * 3 * 3
    assert cells.finals(grid, {("r0", "sst2"): None} | {("r1", "rte"): {}})[0].row == "r1"


def test_options_that_go_together_are_swept_together(make) -> None:
    rows = [
        {
            "name": "a",
            "preset": "bilevel-lora",
            "sweep": {"method.lr_s method.lr_p": [1e-3, 1e-4], "method": {"T": [1, 2]}},
        }
    ]
    values = [c.values for c in cells.sweeps(make(rows=rows, against=""))]
    assert values[1] == {"method.lr_s": 1e-3, "method.lr_p": 1e-3, "method.T": 2} and len(values) == 4


def test_the_chosen_run_of_a_full_sweep_is_the_tables_own(make) -> None:
    """With the whole budget in the sweep nothing is trained twice; with a share of it everything is."""
    grid = make()
    swept, final = cells.sweeps(grid)[0], cells.finals(grid, cells.rehearsed(grid))[0]
    assert swept.digest == final.digest and swept.name == final.name
    short = make(sweep={"share": 0.5})
    swept, final = cells.sweeps(short)[0], cells.finals(short, cells.rehearsed(short))[0]
    assert (swept.steps, final.steps) == (1, 2) and swept.digest != final.digest


def test_what_changes_no_number_changes_no_digest(make) -> None:
    def digest(**options: Any) -> str:
        rows = [{"name": "a", "preset": "fo-lora", "options": options}]
        return cells.finals(make(rows=rows, against=""), {})[0].digest

    assert digest() == digest(**{"run.keep": 5, "run.save_every": 1})
    assert digest() != digest(**{"method.lr_p": 3e-3})
    assert digest() == digest(**{"method.lr_p": 1e-3}), "what the preset says anyway"


def test_an_option_that_came_later_leaves_runs_known_where_it_changes_nothing(make, monkeypatch: Any) -> None:
    def digest(**options: Any) -> str:
        rows = [{"name": "bilevel", "preset": "bilevel-lora", "options": {"method.lam_every": 1} | options}]
        return cells.finals(make(rows=rows, against=""), {})[0].digest

    now, other = digest(), digest(**{"method.lam_every": 2})
    flat = cells.Cell.flat.func
    monkeypatch.setattr(
        cells.Cell, "flat", property(lambda cell: {k: v for k, v in flat(cell).items() if k not in cells.LATER})
    )
    assert digest() == now != other, "as it was before there was the option"


COSTS = {"lora": {"seconds": 0.7, "passes": 3}, "bilevel": {"reviews": {"seconds": 9, "passes": 12}}}


@pytest.mark.parametrize(
    ("budget", "lora", "bilevel"),
    [({"seconds": 60}, 85, 6), ({"seconds": 7.0}, 10, 1), ({"passes": 300}, 100, 25), ({"steps": 4}, 4, 4)],
)
def test_a_budget_is_steps_times_cost(make, budget: dict[str, float], lora: int, bilevel: int) -> None:
    """Rounded down, so that no row spends more; at least one step (then it does, and the table says so)."""
    steps = {c.row: c.steps for c in cells.finals(make(budget=budget, costs=COSTS), {})}
    assert steps == {"lora": lora, "bilevel": bilevel, "zero-shot": 0}


def test_steps_by_row_go_before_the_budget(make) -> None:
    steps = {c.row: c.steps for c in cells.finals(make(budget={"seconds": 9}, steps={"lora": 3, "bilevel": 4}), {})}
    assert steps == {"lora": 3, "bilevel": 4, "zero-shot": 0}


def test_a_budget_without_the_steps_cost_is_refused(make) -> None:
    with pytest.raises(BadInput, match=r"costs\.bilevel\.seconds: .* on reviews is not said; measure it with --costs"):
        cells.finals(make(budget={"seconds": 9}, costs={"lora": {"seconds": 1}}), {})


def test_a_row_like_another_has_its_options_choice_and_steps(make) -> None:
    rows = [
        {"name": "a", "preset": "bilevel-lora", "options": {"method.T": 3}, "sweep": {"method.lr_s": [1e-3, 1e-4]}},
        {"name": "b", "like": "a", "options": {"method.lr_theta": 0}, "same_steps": True},
        {"name": "c", "like": "a", "options": {"method.lr_theta": 0}},
    ]
    costs = {"a": {"seconds": 2}, "c": {"seconds": 1}}
    grid = make(rows=rows, against="a", budget={"seconds": 8}, costs=costs, seeds=[0])
    a, b, c = cells.finals(grid, {("a", "reviews"): {"method.lr_s": 1e-4}})
    assert [x.config.method.lr_s for x in (a, b, c)] == [1e-4] * 3
    assert [x.config.method.T for x in (a, b, c)] == [3] * 3
    assert [x.config.method.lr_theta for x in (a, b, c)] == [1e-6, 0, 0]
    assert [x.steps for x in (a, b, c)] == [4, 4, 8]
    assert cells.finals(grid, {("a", "reviews"): None}) == [], "without a choice neither it nor its likes are run"


def test_what_a_row_says_itself_goes_before_what_was_chosen_for_the_one_it_is_like(make) -> None:
    swept = {"method.lr_s": [1e-3, 1e-4], "method.lr_theta": [1e-6, 1e-7]}
    rows = [
        {"name": "a", "preset": "bilevel-lora", "sweep": swept},
        {"name": "frozen", "like": "a", "options": {"method.lr_theta": 0}},
    ]
    chosen = {"method.lr_s": 1e-4, "method.lr_theta": 1e-7}
    a, frozen = cells.finals(make(rows=rows, against="", seeds=[0]), {("a", "reviews"): chosen})
    assert (a.config.method.lr_s, a.config.method.lr_theta, a.values) == (1e-4, 1e-7, chosen)
    assert (frozen.config.method.lr_s, frozen.config.method.lr_theta) == (1e-4, 0)
    assert frozen.values == {"method.lr_s": 1e-4}, "what is told of it is what it has"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"preset": "fo-lora", "options": {"method.lr_theta": 1}}, "row 'a': --method.lr_theta: it has no effect"),
        ({"preset": "fo-lora", "options": {"method.lr_p": -1}}, "row 'a': --method.lr_p -1"),
        ({"preset": "fo-lora", "options": {"run.seed": 1}}, "row 'a': --run.seed: the experiment sets it"),
        ({"evaluate": True, "options": {"method.T": 1}}, "row 'a': --method.T: an evaluation does not read it"),
        ({"preset": "fo-lora", "sweep": {"method.lr_p": [1e-3, -1]}}, "row 'a': --method.lr_p -1"),
    ],
)
def test_what_a_run_would_refuse_is_told_before_anything_runs(make, row: dict[str, Any], told: str) -> None:
    grid = make(rows=[{"name": "a", **row}], against="")
    with pytest.raises(BadInput) as error:
        [*cells.sweeps(grid), *cells.finals(grid, cells.rehearsed(grid))]
    assert told in str(error.value)


def test_options_of_every_row_count_where_they_have_an_effect(make) -> None:
    grid = make(options={"method.lr_p": 7e-3, "data.shots": 2, "data.batch": 3}, rows=[
        {"name": "a", "preset": "mezo"}, {"name": "b", "preset": "fo-lora"}, {"name": "c", "evaluate": True},
    ], against="", seeds=[0])  # fmt: skip
    a, b, c = cells.finals(grid, {})
    assert (b.config.method.lr_p, a.config.data.shots, c.config.data.shots) == (7e-3, 2, 2)
    assert c.flat["data.shots"] == 2 and "data.batch" not in c.flat and "method.lr_p" not in c.flat


def own_task(place: Path, **keys: Any) -> str:
    """A task of the user's own: its YAML file beside its rows."""
    (place / "rows.jsonl").write_text('{"text": "good", "label": 1}\n', encoding="utf-8")
    held = {"name": "own", "choices": ["bad", "good"], "files": {"train": "rows.jsonl"}, **keys}
    (place / "own.yaml").write_text(yaml.safe_dump(held), encoding="utf-8")
    return str(place / "own.yaml")


def test_a_task_file_that_has_changed_and_its_data_make_other_runs(make, tmp_path: Path) -> None:
    def digests() -> list[str]:
        rows = [{"name": "a", "preset": "fo-lora"}, {"name": "b", "evaluate": True}]
        return [cell.digest for cell in cells.finals(make(rows=rows, against="", seeds=[0], tasks=[task]), {})]

    task = own_task(tmp_path)
    found = [digests()]
    assert digests() == found[0]
    own_task(tmp_path, template="{{ text }}!")
    found.append(digests())
    (tmp_path / "rows.jsonl").write_text('{"text": "bad", "label": 0}\n{"text": "b", "label": 0}\n', encoding="utf-8")
    found.append(digests())
    assert len({digest for both in found for digest in both}) == 6


def test_a_file_that_plays_another_part_makes_other_runs(make, tmp_path: Path) -> None:
    """The same bytes as validation rows, then as test rows."""
    rows = [{"input": f"row {k}", "output": ("no", "yes")[k % 2], "options": ["no", "yes"]} for k in range(40)]
    place = tmp_path / "mine"
    place.mkdir()
    for part, some in (("train", rows[:30]), ("validation", rows[30:])):
        (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    before = cells.contents(DataConfig(task=str(place)))
    (place / "validation.jsonl").rename(place / "test.jsonl")
    assert cells.contents(DataConfig(task=str(place))) != before
    for name in ("reviews", "crossfit/ag_news"):
        assert cells.contents(DataConfig(task=name)) == {}
    assert cells.contents(DataConfig(mixture="class-to-class")) == {}


def test_data_in_a_folder_or_a_file_that_has_changed_makes_other_runs(make, tmp_path: Path) -> None:
    """A run on rows that are no longer there would stand in the table beside new ones."""

    def write(*texts: str) -> None:
        rows = [
            {"input": text, "output": answer, "options": ["no", "yes"]} for text in texts for answer in ("no", "yes")
        ]
        for part in ("train", "test"):
            path = tmp_path / "mine" / f"{part}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def digests() -> list[str]:
        row = {"name": "a", "preset": "fo-lora"}
        folder = make(rows=[row], against="", seeds=[0], tasks=[str(tmp_path / "mine")])
        file = {**row, "options": {"data.train": str(tmp_path / "mine" / "train.jsonl")}}
        return [
            *(c.digest for c in cells.finals(folder, {})),
            *(c.digest for c in cells.finals(make(rows=[file], against="", seeds=[0], tasks=["reviews"]), {})),
            *cells.contents(DataConfig(mixture=str(tmp_path))).values(),
        ]

    write("a", "b")
    found = [digests()]
    assert digests() == found[0]
    write("a", "c")
    found.append(digests())
    assert len({digest for both in found for digest in both}) == 6


def test_a_task_that_there_is_not_is_told_before_anything_runs(make, tmp_path: Path) -> None:
    row = {"name": "a", "preset": "fo-lora"}
    with pytest.raises(BadInput, match=r"row 'a': --task nosuch: no such task"):
        cells.finals(make(rows=[row], against="", tasks=["nosuch"]), {})
    with pytest.raises(BadInput, match=r"row 'a': --task .*: the folder has no train file"):
        cells.finals(make(rows=[row], against="", tasks=[str(tmp_path)]), {})


def test_a_metric_to_choose_by_is_there_or_it_is_refused_before_anything_runs(make, tmp_path: Path) -> None:
    def swept(task: str, preset: str = "fo-lora", **options: Any) -> list[cells.Cell]:
        rate = {"fo-lora": "method.lr_p", "mezo": "method.lr_theta"}[preset]
        rows = [{"name": "a", "preset": preset, "options": options, "sweep": {rate: [1e-3, 1e-4]}}]
        return cells.sweeps(make(rows=rows, against="", tasks=[task], sweep={"by": "metric"}))

    assert len(swept("sst2")) == 2
    assert len(swept("squad", "mezo", **{"method.objective": "f1"})) == 2, "it learns by what it writes"
    with pytest.raises(BadInput, match=r"row 'a': sweep\.by = metric: validation on squad has no metric \(free ans"):
        swept("squad")
    with pytest.raises(BadInput, match=r"has no metric \(the task has none\); choose by loss"):
        swept(own_task(tmp_path, metrics=[]))


@pytest.mark.parametrize(("key", "value"), [("model.weights", "bf16"), ("model.device", "cpu")])
def test_the_weights_type_and_device_are_an_evaluations_too(make, key: str, value: str) -> None:
    def evaluation(**options: Any) -> cells.Cell:
        made = make(rows=[{"name": "a", "evaluate": True}], against="", options=options)
        return cells.finals(made, {})[0]

    assert evaluation(**{key: value}).flat[key] == value and key not in evaluation().flat


def test_threads_are_an_evaluations_too_and_its_digest_is_as_it_was_without_them(make) -> None:
    def evaluation(**options: Any) -> cells.Cell:
        rows = [{"name": "a", "evaluate": True}]
        return cells.finals(make(rows=rows, against="", seeds=[0], options=options), {})[0]

    assert (evaluation(**{"run.threads": 1}).config.run.threads, evaluation().config.run.threads) == (1, 0)
    assert "run.threads" not in evaluation().flat
    assert evaluation(**{"run.threads": 1}).flat["run.threads"] == 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("+lora", "lora"),
        ("=x", "x"),
        ("-.+=x", "x"),
        ("a+b=1.5", "a+b=1.5"),
        ("a b.", "a-b"),
        ("a+", "a+"),
        ("+", "row"),
    ],
)
def test_a_row_may_begin_with_any_sign(make, name: str, wanted: str) -> None:
    assert cells.slug(name) == wanted
    (cell,) = cells.finals(make(rows=[{"name": name, "preset": "fo-lora"}], against="", seeds=[0]), {})
    assert check_name(cell.name) == cell.name


def test_validations_and_checkpoints_follow_from_the_steps(make) -> None:
    grid = make(budget={"steps": 100}, validations=10)
    assert {c.config.run.eval_every for c in cells.finals(grid, {}) if c.steps} == {10}
    grid = make(budget={"steps": 100}, options={"run.eval_every": 50})
    assert {c.config.run.eval_every for c in cells.finals(grid, {}) if c.steps} == {50}
    assert all(not c.config.run.test for c in cells.finals(grid, {}))


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (9, 1), (10, 1), (11, 2), (19, 2), (20, 2), (21, 3)])
def test_validations_are_never_more_than_asked_for(make, steps: int, every: int) -> None:
    """The last step is validated too, whether it is a multiple or not."""
    rows = [{"name": "a", "preset": "fo-lora"}]
    (cell,) = cells.finals(make(rows=rows, against="", seeds=[0], budget={"steps": steps}, validations=10), {})
    assert cell.config.run.eval_every == every and math.ceil(steps / every) <= 10


def test_a_local_model_is_known_by_its_files_and_one_by_name_by_its_name(make, folder: str, tmp_path: Path) -> None:
    """Exported anew under the same name, it is another base: what was run on the old one is not taken for it."""
    place = tmp_path / "base"
    shutil.copytree(folder, place)
    digests = [[cell.digest for cell in cells.finals(grid, cells.rehearsed(grid))] for grid in [make(model=str(place))]]
    held = next(place.glob("*.safetensors"))
    held.write_bytes(held.read_bytes()[:-1] + b"x")
    grid = make(model=str(place))
    assert not {cell.digest for cell in cells.finals(grid, cells.rehearsed(grid))} & set(digests[0])
    assert cells.base("smollm2-135m") == {} and cells.base(str(place)) != cells.base(folder)
    for name in ("merges.txt", "tokenizer.model", "chat_template.jinja"):
        before = cells.base(str(place))
        (place / name).write_text("other", encoding="utf-8")
        assert cells.base(str(place)) != before, name
