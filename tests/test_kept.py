"""States are told from keys and values."""

from __future__ import annotations

from collections.abc import Callable

import transformers as hf
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from zofo.kept import recurrent

Tiny = Callable[..., nn.Module]


def test_states_are_told_from_keys_and_values(tiny: Tiny) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4))
    rwkv = hf.RwkvForCausalLM(hf.RwkvConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2))
    assert recurrent(mamba) and recurrent(rwkv)
    assert not any(recurrent(tiny(arch)) for arch in ("llama", "mistral", "gpt2"))
