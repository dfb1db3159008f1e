"""The plots: one PNG for each that there is something for."""

from __future__ import annotations

from zofo.experiment import plots, report, runner, table
from zofo.experiment.lines import lines as lined


def test_every_plot_is_drawn_and_the_tables_are_written(full) -> None:
    made, store, cells = full
    report.write(made, store, cells)
    drawn = {path.stem: path.read_bytes() for path in store.path.glob("*.png")}
    assert set(drawn) == {"accuracy-seconds", "accuracy-passes", "gap", "memory", "step-time", "prompt"}
    assert all(data.startswith(b"\x89PNG") and len(data) > 5000 for data in drawn.values())
    assert (store.path / "table.md").exists() and (store.path / "table.json").exists()


def test_where_validation_has_losses_alone_the_test_is_drawn(full) -> None:
    """Free answers: no curve, a mark a row at the end of its training."""
    made, store, cells = full
    lines = [line for line in lined(made, store, cells) if line.done]
    for line in lines:
        for record in line.done.values():
            for point in record["curve"]:
                point["score"] = None
    found = table.tabulate(made, store, cells)
    figure = plots.curves(found, lines, lambda line, seed, p: p["passes"], "passes")
    assert figure is not None
    marks = [(artist.get_label(), list(artist.get_xdata())) for axes in figure.axes for artist in axes.lines]
    assert marks == [(row, [132]) for row in ("base", "better", "bare")] * 2


def test_nothing_to_draw_is_nothing_drawn(make, tmp_path) -> None:
    from zofo.experiment.store import Store

    made, store = make(), Store(tmp_path / "empty")
    found = report.write(made, store, runner.known(made, store))
    assert not list(store.path.glob("*.png")) and found["rows"][0]["seeds"] == 0


def test_a_row_without_the_prompt_has_the_colour_of_its_partner_dotted(full) -> None:
    made, store, cells = full
    lines = [line for line in lined(made, store, cells) if line.done]
    look = plots.looks(table.tabulate(made, store, cells), lines)
    assert look["bare"] == look["base"] | {"linestyle": ":"}
    assert look["base"]["linestyle"] == "-" and look["better"]["color"] != look["base"]["color"]


def test_long_names_stay_within_the_picture() -> None:
    names = [
        f"bilevel-sketch-lora, theta frozen, same {what}" for what in ("steps", "seconds", "rows", "length", "moments")
    ]
    for some in (names, names[:4], ["lora", "mezo", "addax", "icl", "sketch"]):
        figure = plots.sheet(7.0, 4.8)
        axes = figure.subplots()
        for name in some:
            axes.plot([0, 1], [0, 1], label=name)
        plots.legend(figure, {"sst2": axes})
        figure.canvas.draw()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, (len(some), box)
    assert plots.abreast(figure, ["lora", "mezo", "addax", "icl", "sketch"]) == 4, "short names stand side by side"


def test_memory_is_parted_by_kind_where_the_record_parts_it() -> None:
    whole = {"standing_mb": 500.0, "peak_mb": 900.0, "estimated_mb": 600.0}
    parted = whole | {"estimated_weights_mb": 400.0, "estimated_pass_mb": 200.0}
    assert plots.kinds(parted) == {"weights": 400.0, "pass": 200.0} and plots.kinds(whole) == {"": 600.0}
    figure = plots.memory(
        {"rows": [{"row": "a", "task": "t", "memory": parted}, {"row": "b", "task": "t", "memory": whole}]}
    )
    assert figure is not None
    ends = [max(bars[k].get_x() + bars[k].get_width() for bars in figure.axes[0].containers) for k in (0, 1)]
    assert ends == [600.0, 600.0], "the parts of a row end where its whole does"
