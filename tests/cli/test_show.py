"""`show` tells about a run, a task or a preset."""

from __future__ import annotations

from pathlib import Path

from zofo.cli import show
from zofo.layers import preset, resolve
from zofo.report.words import figure, score
from zofo.run.jsonfile import read_json
from zofo.tasks import definition


def cells(out: str) -> dict[str, str]:
    return {line.split("\t")[0]: line.split("\t")[1] for line in out.splitlines() if "\t" in line}


def test_a_task(cli) -> None:
    status, out, _ = cli("show", "sst2")
    assert status == 0
    told = cells(out)
    assert told["answers"] == "terrible, great (in label order)" and told["metrics"] == "accuracy"
    assert told["data"] == "$ZOFO_DATA/sst2; else hub nyu-mll/glue (sst2)" and "{{" in told["template"]
    assert show.places(definition.find("reviews")) == ["in the package"]


def test_a_task_with_answers_of_each_row_or_none(cli) -> None:
    told = cells(cli("show", "copa")[1])
    assert told["answers"].startswith("the row's own: choice1, choice2, as {{ ")
    assert told["task-only prompt, for calibration"] == definition.find("copa").template_task
    told = cells(cli("show", "squad")[1])
    assert told["answers"] == "free text" and told["metrics"] == "F1, EM" and told["objective"] == "lm"
    assert told["a row too long loses"] == "the end of 'context'" and told["note"].startswith("Not the standard")


def test_a_preset(cli) -> None:
    status, out, _ = cli("show", "mezo-lora")
    assert status == 0 and out.startswith("preset mezo-lora: ")
    assert set(cells(out)) == set(preset("mezo-lora"))


def test_a_run(cli, trained: str, home: Path) -> None:
    status, out, err = cli("show", trained)
    assert status == 0, err
    told = cells(out)
    assert told["method.T"] == "1" and told["run.steps"] == "2" and "method.q" not in told
    chosen = {key: told[key] for key in ("model.dtype", "method.probe_dtype", "method.stack", "method.eps")}
    assert list(chosen.values()) == ["fp32", "fp32", "off", "0.001"], "what `auto` came to be is no default"
    assert {"zero-shot", "p", "s", "gap", "loss_p"} <= set(told)
    held = read_json(home / "runs" / trained / "eval.json")["results"]["zero-shot"]
    row = ["zero-shot", "accuracy", score(held), figure(held["loss"]), "8"]
    assert "\t".join(row) in out.splitlines() and "% +- " in row[2]
    assert "theta has moved: |theta - theta_0| / |theta_0| = " in out
    assert cli("show", str(home / "runs" / trained))[:2] == (0, out.replace("in runs/", f"in {home}/runs/"))


def test_differences_are_from_the_defaults() -> None:
    config, _ = resolve({"method.lam": 3})
    assert show.differences(config) == [("method.lam", "3.0", "10.0")]
    config, _ = resolve({"adapter.targets": ["q_proj", "v_proj"]})
    assert show.differences(config) == [("adapter.targets", "q_proj v_proj", "")]


def test_nearest_of_all_names(cli, trained: str) -> None:
    for word, meant in (("sst3", "sst2"), ("mezzo", "mezo"), ("tiny-rum", trained)):
        status, _, err = cli("show", word)
        assert status == 2 and f"did you mean '{meant}'?" in err
