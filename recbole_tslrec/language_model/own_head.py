"""Whether the head as it is read here gives a model's own logits: tried, not looked up by name."""

from __future__ import annotations

import torch
from torch import nn

from recbole_tslrec.language_model.encoder import trunk_of
from recbole_tslrec.language_model.readout import States, first_answer_states, head_of

# How far logits may be off, as a share: rounding in 8 bits or bf16 stays below it.
_ROUNDING = 0.05


@torch.no_grad()
def check_head(model: nn.Module, name: str) -> None:
    """Raise ValueError unless the head's logits are the loaded model's own, tried on a few positions."""
    words = model.get_input_embeddings()
    tokens = torch.arange(2, 6, device=words.weight.device) % words.num_embeddings
    read = {"inputs_embeds": words(tokens)[None], "attention_mask": torch.ones_like(tokens)[None]}
    hidden = trunk_of(model)(**read).last_hidden_state
    if model.config.is_encoder_decoder:
        hidden = first_answer_states(model, States(hidden, read["attention_mask"]))[:, None]
        read["decoder_input_ids"] = torch.full_like(
            tokens[:1, None], model.config.decoder_start_token_id
        )
    own, found = model(**read).logits.float(), head_of(model)(hidden)
    if (found - own).norm() > _ROUNDING * own.norm():
        raise ValueError(
            f"llm: [{name}], a {model.config.model_type}, makes its logits in a way that is not known "
            f"here. Give another language model."
        )
