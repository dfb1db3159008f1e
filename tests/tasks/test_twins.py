"""A data set is found under another name, and different ones stay different."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo.errors import BadInput
from zofo.tasks import twins
from zofo.tasks.definition import find, names
from zofo.tasks.mixture import find as mixture


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("rte", "crossfit/glue-rte"), ("crossfit/superglue-rte", "crossfit/glue-rte"), ("sst2", "crossfit/rotten_tomatoes"),
        ("crossfit/glue-sst2", "sst2"), ("squad", "crossfit/squad-with_context"), ("crossfit/trec", "crossfit/trec-finegrained"),
        ("winogrande", "crossfit/wino_grande"), ("crossfit/unifiedqa-boolq", "boolq"), ("copa", "crossfit/superglue-copa"),
        ("crossfit/unifiedqa-drop", "drop"), ("crossfit/unifiedqa-winogrande_xl", "winogrande"), ("crossfit/unifiedqa-squad1_1", "squad"),
        ("crossfit/unifiedqa-qasc_with_ir", "crossfit/qasc"), ("crossfit/kilt_hotpotqa", "crossfit/hotpot_qa"),
        ("crossfit/unifiedqa-natural_questions_with_dpr_para", "crossfit/kilt_nq"), ("crossfit/unifiedqa-social_iqa", "crossfit/social_i_qa"),
    ],
)  # fmt: skip
def test_one_data_set_under_two_names(name: str, same: str) -> None:
    assert twins.data_set(name) == twins.data_set(same)


def test_different_data_sets_stay_different() -> None:
    crossfit = [name for name in names() if name.startswith("crossfit/")]
    assert len({twins.data_set(name) for name in crossfit}) == len(crossfit) - 2, (
        "glue-sst2 and rotten_tomatoes, trec and trec-finegrained"
    )
    assert twins.data_set("own/rte") is None and find("rte").name == "rte"


def test_one_data_set_on_both_sides_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("train: [sst2, crossfit/glue-rte]\ntest: [rte]\n", encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"test task 1 \(rte\): its data set is that of crossfit/glue-rte \(train task 2\)"
    ):
        mixture(tmp_path / "m.yaml")
