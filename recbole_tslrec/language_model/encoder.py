"""A language model that reads items: histories in, one hidden state each out (paper §4.1, Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_tslrec.language_model.shared_prefix import continue_prefix, with_prefix


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector a prompt.

    Args:
        hidden: the language model's last hidden states, [B, T, H].
        attention_mask: [B, T], 0 at padding, which is on the right.
        pooling: ``last``, the state at the last prompt position (Eq. 1), or ``mean``.

    Returns:
        [B, H] float32.
    """
    if pooling == "last":
        last = attention_mask.sum(dim=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    weights = attention_mask.unsqueeze(2).float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


class ItemPromptModel(nn.Module):
    """The language model with ``linear_proj``, which turns item embeddings into slots of a prompt.

    Args:
        language_model: a transformers model, with or without adapters.
        item_embeddings: e_v of the trained backbone, [n_items, d]; frozen. Row 0 is padding.
        pooling: see ``pool``.
    """

    item_embeddings: Tensor

    def __init__(self, language_model: nn.Module, item_embeddings: Tensor, pooling: str):
        super().__init__()
        self.language_model = language_model
        self.pooling = pooling
        # To unit size, so that linear_proj's weights and their learning rate mean the same for every
        # backbone. A buffer that is not saved: it comes from the backbone's stage each time.
        scaled = item_embeddings / item_embeddings[1:].float().pow(2).mean().sqrt()
        self.register_buffer("item_embeddings", scaled.float(), persistent=False)
        words = language_model.get_input_embeddings()
        self.linear_proj = nn.Linear(item_embeddings.shape[1], words.weight.shape[1])
        self._start_among_words(words)

    @torch.no_grad()
    def _start_among_words(self, words: nn.Embedding) -> None:
        """Start linear_proj so that slots have the token embeddings' mean and spread.

        A language model reads what it was trained on; slots of another size would be noise to it.
        """
        n_words = min(words.num_embeddings, 10_000)
        tokens = torch.arange(n_words, device=words.weight.device)
        vectors = words(tokens).float()  # through the module: some models scale in there
        mean = vectors.mean(dim=0)
        spread = (vectors - mean).pow(2).mean().sqrt()
        nn.init.normal_(self.linear_proj.weight)
        self.linear_proj.weight *= spread.cpu() / self.linear_proj.in_features**0.5
        self.linear_proj.bias.copy_(mean)

    def forward(
        self,
        token_ids: Tensor,
        item_rows: Tensor,
        attention_mask: Tensor,
        prefix_ids: Tensor | None = None,
    ) -> Tensor:
        """h^u of every prompt (Eq. 1); the arguments as ``Prompt.batch`` makes them.

        Returns:
            [B, hidden] float32.
        """
        look_up = self.language_model.get_input_embeddings()
        words = look_up(token_ids)  # [B, T, H]
        slots = self.linear_proj(self.item_embeddings[item_rows.clamp(min=0)])  # [B, T, H]
        embeddings = torch.where((item_rows >= 0).unsqueeze(2), slots.to(words.dtype), words)
        if prefix_ids is None:
            output = self.language_model(inputs_embeds=embeddings, attention_mask=attention_mask)
            return pool(output.last_hidden_state, attention_mask, self.pooling)
        prefix, hidden = continue_prefix(
            self.language_model, look_up(prefix_ids), embeddings, attention_mask
        )
        if self.pooling == "mean":  # over the whole prompt, the shared part included
            prefix = prefix.expand(len(hidden), -1, -1)
            hidden = torch.cat([prefix, hidden], dim=1)
            attention_mask = with_prefix(attention_mask, prefix.shape[1])
        return pool(hidden, attention_mask, self.pooling)
