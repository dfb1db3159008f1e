"""A mixture in an experiment: every row's base meets the unseen tasks as `zofo adapt` and `zofo eval` have it, in pairs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

import zofo
from zofo import begin
from zofo.cli import main
from zofo.errors import BadInput, ZofoError
from zofo.experiment import cells, lines, reading, report, runner, table, text, unseen
from zofo.experiment.grid import Grid
from zofo.experiment.progress import Board, Pace, Place, reached, where
from zofo.run.jsonfile import read_json, write_json

QUICK: dict[str, Any] = {"shots": 2, "steps": 3, "draws": 2, "demonstrations": 3, "lr": 0.5}
SMALL: dict[str, Any] = {
    "data.test_rows": 6, "data.validation_rows": 2, "data.max_length": 48, "data.batch": 2, "data.shot_length": 9, "adapter.r": 2,
    "model.dtype": "fp32", "run.threads": 1,
}  # fmt: skip
ROWS = [
    {"name": "base", "evaluate": True},
    {"name": "shown", "evaluate": True, "unseen": "demonstrations"},
    {"name": "reptile", "preset": "reptile-lora", "options": {"method.tasks": 2}},
    {"name": "bilevel", "preset": "meta-lora", "options": {"method.T": 1, "method.tasks": 2}},
]  # fmt: skip


@pytest.fixture
def make(folder: str, tmp_path: Path, mixed: Path):
    """A grid over the toy mixture with keys laid over it."""

    def made(**keys: Any) -> Grid:
        file = tmp_path / "meta.yaml"
        tree = {
            "model": folder, "mixture": str(mixed), "seeds": [0, 1], "budget": {"steps": 2}, "validations": 1,
            "against": "base", "options": SMALL, "unseen": QUICK, "rows": ROWS, **keys,
        }  # fmt: skip
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return reading.read(str(file))[0]

    return made


@pytest.mark.slow
def test_each_base_meets_the_unseen_tasks_as_adapt_and_eval_do(
    lab, make, mixed: Path, folder: str, tmp_path: Path
) -> None:
    made, _ = lab.run(make())
    held = {(cell.row, cell.seed): lab.store.record(cell)["test"] for cell in made}
    assert len(held) == 8 and all(list(test["tasks"]) == ["own/c", "own/d"] for test in held.values())
    means = [test["slots"][test["used"]]["macro_f1"] for test in held.values()]
    assert len(set(means)) > 4, "scores that are all one could not tell a wrong way from the right one"
    options = {key: QUICK[key] for key in ("shots", "steps", "draws", "lr")}
    own = {"mixture": str(mixed), "adapter__r": 2, "data__test_rows": 6, "data__max_length": 48, "model__dtype": "fp32"}
    direct = zofo.adapt(folder, seed=1, **options, **own)
    base = held["base", 1]
    assert base["used"] == "adapted" and base["slots"]["adapted"]["macro_f1"] == direct["mean"]["after"]["mean"]
    assert base["slots"]["zero-shot"]["macro_f1"] == direct["mean"]["before"]
    for row in ("bilevel", "reptile"):
        run = next(lab.store.run(cell) for cell in made if (cell.row, cell.seed) == (row, 1))
        direct = zofo.adapt(
            run.name, dir=str(run.path.parent), seed=1, mixture=str(mixed), data__test_rows=6, **options
        )
        assert direct["start"] == ("run" if row == "reptile" else "fresh")
        for name, record in direct["tasks"].items():
            said = held[row, 1]["tasks"][name]
            assert [d["result"]["macro_f1"] for d in said["draws"]] == [
                d["result"]["macro_f1"] for d in record["draws"]
            ]
            assert [d["rows"] for d in said["draws"]] == [d["rows"] for d in record["draws"]]
            assert [d["rows"] for d in said["draws"]] == [d["rows"] for d in base["tasks"][name]["draws"]], (
                "the same examples"
            )
    out = tmp_path / "shown.json"
    words = [
        "eval",
        folder,
        "--mixture",
        str(mixed),
        "--shots",
        "3",
        "--draws",
        "2",
        "--seed",
        "1",
        "--dtype",
        "fp32",
        "--out",
        str(out),
    ]
    words += ["--data.test_rows", "6", "--data.max_length", "48", "--data.shot_length", "9"]
    assert main.main(words) == 0
    direct, said = read_json(out), held["shown", 1]
    assert (
        said["used"] == "demonstrations"
        and said["slots"]["demonstrations"]["macro_f1"] == direct["mean"]["after"]["mean"]
    )
    assert {test["rows_sha256"] for test in held.values()} == {held["base", s]["rows_sha256"] for s in (0, 1)}
    orders = list(lab.orders)
    lab.run(make())
    assert lab.orders == orders, "nothing is run again"


def test_a_draw_is_what_rows_are_compared_by(lab, make) -> None:
    """The score is the mean over tasks of each draw, and the difference pairs the draws of a seed."""
    wanted = make(rows=[ROWS[0], ROWS[2]])
    made, _ = lab.run(wanted)
    found = report.write(wanted, lab.store, made)
    tests = {(cell.row, cell.seed): lab.store.record(cell)["test"] for cell in made}
    values = {key: test["slots"]["adapted"]["by_row"]["macro_f1"] for key, test in tests.items()}
    for key, test in tests.items():
        by_task = [[d["result"]["macro_f1"] for d in t["draws"]] for t in test["tasks"].values()]
        assert values[key] == pytest.approx([statistics.fmean(draw) for draw in zip(*by_task, strict=True)])
    rows = {entry["row"]: entry for entry in found["rows"]}
    less = [x - y for s in (0, 1) for x, y in zip(values["reptile", s], values["base", s], strict=True)]
    assert rows["reptile"]["difference"]["mean"] == pytest.approx(statistics.fmean(less))
    assert rows["base"]["slots"]["zero-shot"]["mean"] is not None and found["unseen"]["columns"][2] == "base, before"
    assert [row[0] for row in found["unseen"]["rows"]] == ["own/c", "own/d", "mean over tasks"]
    written = (lab.store.path / "table.md").read_text()
    assert "| zero-shot |" in written and "unseen tasks" in written and (lab.store.path / "unseen.png").exists()
    assert [title for title, *_ in text.tables(read_json(lab.store.path / "table.json"))] == [title for title, *_ in text.tables(found)]  # fmt: skip


def test_runs_are_known_by_how_the_unseen_tasks_are_met_and_by_the_mixture(make, mixed: Path, tmp_path: Path) -> None:
    def digests(**keys: Any) -> list[str]:
        return [cell.digest for cell in cells.finals(make(**keys), {})]

    before = digests()
    assert len(set(before)) == len(before)
    assert not set(before) & set(digests(unseen={**QUICK, "draws": 3}))
    assert set(digests(unseen={**QUICK, "lr": 0.1})) & set(before) == set(before[2:4]), "demonstrations take no steps"
    file = mixed.parent / "b" / "train.jsonl"
    held = file.read_text()
    try:
        file.write_text(held.replace("b row 3", "b row three"))
        assert not set(before) & set(digests())
    finally:
        file.write_text(held)
    assert digests() == before
    for line in ("{{ input }} So:", "{{ input }} Hence:"):
        files = {"train": str(mixed.parent / "a" / "train.jsonl")}
        task = {"name": "t", "files": files, "template": line, "choices": ["x", "y"], "label": "output"}
        (tmp_path / "t.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        (tmp_path / "m.yaml").write_text(f"train: [./t.yaml]\ntest: [{mixed.parent / 'c'}]\n", encoding="utf-8")
        found = digests(mixture=str(tmp_path / "m.yaml"))
        assert not set(found) & set(before), "a task's template counts"
        before = found


def record(*draws: float, before: float = 0.1, metric: str = "macro_f1", name: str = "t") -> dict[str, Any]:
    made = [{"seed": k, "result": {metric: value}} for k, value in enumerate(draws)]
    return {
        "task": name, "metric": metric, "drawn": "", "notes": [], "after": {}, "seconds": 1.0, "before": {metric: before},
        "test": {"sha256": name, "rows": 4}, "draws": made,
    }  # fmt: skip


ORDER = {"how": "adapted", "seed": 0, "draws": 2}


def test_a_task_that_failed_fails_the_row_and_other_rows_do_not_compare() -> None:
    whole = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, name="u")}, ORDER)
    assert (
        whole["slots"]["adapted"]["by_row"] == {"macro_f1": pytest.approx([0.4, 0.6])} and whole["metric"] == "macro_f1"
    )
    mixed = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, metric="accuracy", name="u")}, ORDER)
    assert mixed["metric"] == "score"
    with pytest.raises(ZofoError, match=r"some have no score \(u: why\)"):
        unseen.told({"t": record(0.2, 0.4), "u": {"task": "u", "failed": "why"}}, ORDER)
    with pytest.raises(ZofoError, match="none has a metric"):
        unseen.told({"t": record(0.2, 0.4, metric="loss")}, ORDER)
    other_seed = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, name="u")}, {**ORDER, "seed": 1})
    other_rows = unseen.told({"t": record(0.2, 0.4), "u": record(0.6, 0.8, name="v")}, ORDER)
    assert len({held["rows_sha256"] for held in (whole, other_seed, other_rows)}) == 3


def test_what_draws_went_without_stands_in_the_rows_notes() -> None:
    held = {"t": record(0.2, 0.4), "u": record(0.6, 0.8, name="u")}
    assert unseen.told(held, ORDER)["notes"] == []
    held["u"]["draws"][1] |= {"fewer": 9, "skipped": 4}
    assert unseen.told(held, ORDER)["notes"] == [
        "u: up to 9 rows with fewer demonstrations: the model reads no more",
        "u: 4 adapter steps skipped (not finite)",
    ]


def test_a_row_may_meet_unseen_tasks_at_a_rate_of_its_own(make) -> None:
    """A start that was trained wants other steps than a fresh adapter."""
    rows = [ROWS[2], {**ROWS[2], "name": "slower", "unseen_lr": 1e-3}]
    found = {cell.row: cell.unseen["lr"] for cell in cells.finals(make(rows=rows, against=""), {}) if cell.unseen}
    assert found == {"reptile": 0.5, "slower": 1e-3}


def test_rows_of_a_mixtures_tasks_are_as_many_as_zofo_train_takes(make) -> None:
    options = {key: value for key, value in SMALL.items() if key != "data.validation_rows"}
    for cell in cells.finals(make(options=options), {}):
        assert (cell.config.data.train_rows, cell.config.data.validation_rows) == (768, 32)


def test_a_run_whose_tasks_failed_is_met_again_and_not_trained_again(
    lab, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zofo.adapting import draws

    one, met = draws.one, list[str]()

    def full(*_: object) -> None:
        raise RuntimeError("can't allocate memory")

    def first(base: Any, plan: Any, ready: Any, *rest: Any) -> Any:
        return full() if ready.task.name == "own/d" else one(base, plan, ready, *rest)

    def second(base: Any, plan: Any, ready: Any, *rest: Any) -> Any:
        met.append(ready.task.name)
        return one(base, plan, ready, *rest)

    wanted = make(rows=[ROWS[2]], against="", seeds=[0])
    monkeypatch.setattr(draws, "one", first)
    (cell,), _ = lab.run(wanted)
    held, kept = lab.store.record(cell), lab.store.jobs / f"{lab.store.name(cell)}.tasks.json"
    assert held["status"] == "out of memory" and "own/d: RuntimeError: can't allocate memory" in held["reason"]
    assert kept.exists()
    monkeypatch.setattr(draws, "one", second)
    monkeypatch.setattr(begin, "start", full)
    monkeypatch.setattr(begin, "resume", full)
    lab.run(wanted, retry=True)
    assert lab.store.record(cell)["status"] == "done" and lab.store.finished(cell)
    assert set(met) == {"own/d"} and not kept.exists()  # the tasks that were done stand


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were trained, in turn."""
    start, names = begin.start, list[str]()

    def counted(settings: Any, *rest: Any) -> Any:
        names.append(settings.run.name)
        return start(settings, *rest)

    monkeypatch.setattr(begin, "start", counted)
    return names


TWICE = [ROWS[2], {**ROWS[2], "name": "gently", "unseen_lr": 0.1}]


def by_draw(lab: Any, *cells: Any) -> list[list[float]]:
    """What each cell scored, draw by draw."""
    return [lab.store.record(cell)["test"]["slots"]["adapted"]["by_row"]["macro_f1"] for cell in cells]


def test_a_run_is_trained_once_however_its_base_meets_the_unseen_tasks(lab, make, begun: list[str]) -> None:
    (one, two), _ = lab.run(make(rows=TWICE, against="", seeds=[0]))
    assert lab.store.run(one) == lab.store.run(two) and begun == [lab.store.run(one).name]
    (first, second) = by_draw(lab, one, two)
    assert first != second and lab.store.finished(one) and lab.store.finished(two)
    (more,), said = lab.run(make(rows=[ROWS[2]], against="", seeds=[0], unseen={**QUICK, "draws": 3}))
    assert len(begun) == 1 and any("its run is there, and meets the unseen tasks anew" in line for line in said)
    (third,) = by_draw(lab, more)
    assert third[:2] == first and len(third) == 3
    assert lab.store.record(more)["curve"] == lab.store.record(one)["curve"]


def test_a_lean_run_waits_for_all_that_meet_it_and_is_trained_anew_for_those_that_come_later(
    lab, make, begun: list[str]
) -> None:
    held = list[bool]()

    def launch(order: Path, log: Path) -> Any:
        held.append(any(path.is_dir() for path in lab.store.runs.glob("*/checkpoints/*")))
        return lab.launch(order, log)

    (one, _), _ = lab.run(make(rows=TWICE, against="", seeds=[0]), lean=True, launch=launch)
    assert held == [False, True] and len(begun) == 1 and not any(lab.store.run(one).checkpoints.iterdir())
    (more,), _ = lab.run(make(rows=[ROWS[2]], against="", seeds=[0], unseen={**QUICK, "draws": 3}), lean=True)
    assert begun == [begun[0]] * 2 and lab.store.finished(more)
    before, after = by_draw(lab, one, more)
    assert after[:2] == before, "the same bits"


def test_time_left_and_where_a_run_is_count_the_unseen_tasks(lab, make) -> None:
    """What one row took after its training tells of all that meet them so; not of demonstrations."""
    lab.store.make()
    made = {(cell.row, cell.seed): cell for cell in cells.finals(make(costs={"bilevel": {"seconds": 3}}), {})}
    base, bilevel, shown = made["base", 0], made["bilevel", 0], made["shown", 0]
    pace = Pace()
    pace.learn(base, 0.0, 60.0)
    steps = bilevel.steps
    assert pace.seconds(bilevel) == 3 * steps + 60.0 and pace.seconds(shown) is None
    assert pace.seconds(bilevel, Place(steps, 1)) == 30.0 and where(bilevel, Place(steps, 1)).endswith(
        "1 of 2 unseen tasks"
    )
    assert reached(lab.store, base) == Place() and where(base, Place()).endswith(": 0 of 2 unseen tasks")
    write_json(lab.store.tasks(base), {"tasks": {"own/c": {}}})
    assert reached(lab.store, base) == Place(0, 1) and pace.seconds(base, Place(0, 1)) == 30.0
    state = runner.State({}, {base.digest: base}, pace, {base.digest: (base, None)})
    assert "30.0 s left" in state.told(runner.Work(make(), lab.store, Board()))[2]


def test_cells_of_one_run_take_turns(lab, make) -> None:
    (one, two, three) = cells.finals(make(rows=[*TWICE, ROWS[3]], against="", seeds=[0]), {})
    state = runner.State({}, {}, Pace())
    assert state.ready([one, two, three]) == one
    state.going[one.digest] = one, None
    assert state.ready([two, three]) == three and state.ready([two]) is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tasks": ["sst2"]}, "give tasks, or a mixture"),
        ({"mixture": "", "tasks": ["sst2"], "rows": ROWS[2:3], "against": ""}, "unseen: there is no mixture"),
        ({"rows": [{**ROWS[2], "tasks": ["sst2"]}], "against": ""}, "there is one mixture"),
        ({"unseen": {"shots": 0}}, "unseen.shots"),
        ({"unseen": {"shot": 4}}, "no such key"),
        (
            {"mixture": "", "tasks": ["sst2"], "rows": ROWS[1:2], "against": "", "unseen": {}},
            "unseen = demonstrations: there is no mixture",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make(**keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rows": [{**ROWS[0], "options": {"data.shots": 7}}]}, "--data.shots: an evaluation does not read it"),
        ({"rows": [{**ROWS[0], "options": {"data.shot_length": 7}}]}, "--data.shot_length: an evaluation does not read it"),
        ({"rows": [{**ROWS[0], "options": {"adapter.kind": "loora"}}]}, "--adapter.kind loora"),
        ({"rows": [ROWS[0]], "options": {**SMALL, "data.test_rows": -5}}, "--data.test_rows -5"),
        ({"unseen": {**QUICK, "shots": 400}}, r"task own/c.* training rows .*, a draw takes 400"),
        ({"mixture": "nosuch"}, "--mixture nosuch"),
    ],
)  # fmt: skip
def test_what_would_fail_after_training_is_refused_before(make, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        cells.finals(make(**keys), {})


def test_every_row_meets_unseen_tasks_in_one_dtype_and_by_one_objective(make) -> None:
    options = {**{k: v for k, v in SMALL.items() if k != "model.dtype"}, "method.objective": "classification"}
    told = [cell.unseen for cell in cells.finals(make(rows=[ROWS[0], ROWS[2]], options=options), {})]
    assert all(held is not None and held["flags"]["model.dtype"] == "fp32" for held in told)
    assert all(held["flags"]["method.objective"] == "classification" for held in told if held is not None)


def test_a_mixture_without_unseen_tasks_is_refused(make, mixed: Path) -> None:
    other = mixed.parent / "seen.yaml"
    other.write_text("train: [a, b]\n", encoding="utf-8")
    with pytest.raises(BadInput, match="it has no unseen tasks"):
        cells.finals(make(mixture=str(other)), {})


def test_every_row_reads_rows_and_makes_adapters_alike(make) -> None:
    flags = {cell.row: cell.unseen["flags"] for cell in cells.finals(make(seeds=[0]), {})}
    data = {"data.test_rows": 6, "data.max_length": 48}
    assert flags["reptile"] == flags["bilevel"] == data, "the run brings its own adapter"
    assert flags["base"] == {**data, "adapter.r": 2, "model.dtype": "fp32"}
    assert flags["shown"]["data.shot_length"] == 9
    assert not cells.met_by("data.redraw", True, True), "it acts in training alone"


def test_swept_runs_do_not_hang_on_how_unseen_tasks_are_met(make) -> None:
    swept = [{"name": "r", "preset": "reptile-lora", "sweep": {"method.lr_p": [1e-3, 1e-2]}}]
    with pytest.raises(BadInput, match="choose by loss"):
        cells.sweeps(make(rows=swept, against="", sweep={"by": "metric"}))

    def digests(**keys: Any) -> list[str]:
        return [cell.digest for cell in cells.sweeps(make(rows=swept, against="", **keys))]

    part = {"sweep": {"share": 0.5}}
    assert digests(**part) == digests(**part, unseen={**QUICK, "draws": 3})
    whole = make(rows=swept, against="", seeds=[0])
    final = cells.finals(whole, {("r", whole.mixture): {"method.lr_p": 1e-2}})
    assert [cell.digest for cell in final] == digests()[1:], "the chosen run is the table's"


def test_the_mean_over_seeds_pools_their_draws(make, lab) -> None:
    line = lines.Line(
        "r", "m", {}, {s: {"status": "done", "test": {"tasks": {"t": record(0.1 + s, 0.2 + s)}}} for s in (0, 1)}
    )
    (found,) = table.series([line])
    assert found.points["t"].draws == (0.1, 0.2, 1.1, 1.2) and found.points["t"].after["mean"] == pytest.approx(0.65)
    assert found.points["t"].after["high"] > 5, "two seeds a unit apart, whatever their draws agree on"


@pytest.mark.slow
def test_the_cosine_of_a_meta_run_is_over_its_tasks_with_their_own_adapters(
    lab, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zofo import job

    placed: list[str] = []
    put = job.at_hand
    monkeypatch.setattr(job, "at_hand", lambda problem, name: (placed.append(name), put(problem, name))[1])
    sketch = {
        "name": "sketch",
        "preset": "meta-sketch-lora",
        "options": {"method.T": 1, "method.tasks": 3},
    }
    grid = make(rows=[ROWS[0], sketch, ROWS[3]], seeds=[0], cosines=2)
    made, _ = lab.run(grid)
    held = {cell.row: lab.store.record(cell) for cell in made}
    by_sketch, by_zeroth = held["sketch"]["cosines"]["A"], held["bilevel"]["cosines"]["G"]
    assert by_sketch["mean"] > 0.1 > abs(by_zeroth["mean"])
    assert len(set(placed)) >= 3
    entry = next(e for e in table.tabulate(grid, lab.store, made)["rows"] if e["row"] == "sketch")
    assert entry["cosine"] is not None and entry["moved"] > 0


def test_the_bench_of_estimates_has_the_tasks_own_adapters_after_a_meta_run(
    lab, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zofo.bench import estimate

    grid = make(rows=[ROWS[3]], seeds=[0], against="")
    (cell,), _ = lab.run(grid)
    rested: list[int] = []
    measured = estimate.measured

    def counted(held: Any, *rest: Any) -> Any:
        rested.append(len(held.problem.bank.files))
        return measured(held, *rest)

    monkeypatch.setattr(estimate, "measured", counted)
    found = estimate.main(run=lab.store.run(cell), eps=(1e-2,), seeds=2, batches=1, dtypes=("fp32",))
    assert rested[0] == 0 and rested[1] >= 2 and {row["n"] for row in found["results"]} == {2 * 2}, "two tasks, two z"
