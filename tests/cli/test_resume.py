"""`resume` finds the run and goes on with it."""

from __future__ import annotations


def test_a_finished_run_is_left_as_it_is(cli, trained: str, home) -> None:
    before = (home / "runs" / trained / "metrics.jsonl").read_bytes()
    status, out, err = cli("resume", trained)
    assert status == 0, err
    assert "finished" in out
    assert (home / "runs" / trained / "metrics.jsonl").read_bytes() == before


def test_the_nearest_run_is_named(cli, trained: str) -> None:
    status, _, err = cli("resume", "tiny-rum")
    assert status == 2 and "did you mean 'tiny-run'?" in err
    assert cli("resume", trained, "--dir", "elsewhere")[0] == 2
