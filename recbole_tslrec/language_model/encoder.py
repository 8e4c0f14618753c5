"""A language model that reads items: prompts in, hidden states out (TSLRec §4.1, Eq. 1).

What is read out of the states is apart, in ``readout``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_tslrec.language_model.packed_prefixes import Prompts, packs
from recbole_tslrec.language_model.readout import States, pooled
from recbole_tslrec.language_model.shared_prefix import continue_prefix, continue_prefixes


class ItemEncoder(nn.Module):
    """A language model whose prompts hold item slots and learned vectors among their words.

    Of an encoder-decoder it is the encoder that reads the prompts.

    Args:
        language_model: a transformers model, with or without adapters.
        item_embeddings: e_v of the trained backbone, [n_items, d]; frozen. Row 0 is padding. None
            where no prompt has slots.
        soft_vectors: what the learned vectors of the prompts start as, [n, H], or None for none
            (POD §3.2, DELRec §5.2).
    """

    item_embeddings: Tensor

    def __init__(
        self,
        language_model: nn.Module,
        item_embeddings: Tensor | None,
        soft_vectors: Tensor | None = None,
    ):
        super().__init__()
        self.language_model = language_model
        words = language_model.get_input_embeddings()
        if item_embeddings is not None:
            # To unit size, so that linear_proj's weights and their learning rate mean the same for
            # every backbone. A buffer that is not saved (but see ``keep_item_embeddings``): it comes
            # from the backbone's stage each time.
            scaled = item_embeddings / item_embeddings[1:].float().pow(2).mean().sqrt()
            self.register_buffer("item_embeddings", scaled.float(), persistent=False)
            self.linear_proj = nn.Linear(item_embeddings.shape[1], words.weight.shape[1])
            self._start_among_words(words)
        if soft_vectors is not None:
            self.soft_vectors = nn.Parameter(soft_vectors.clone())

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

    def take_item_embeddings(self, embeddings: Tensor) -> None:
        """Put a trained backbone's e_v in the place of what there was, to unit size, and keep them.

        Args:
            embeddings: [n_items - 1, d], without padding.
        """
        self.item_embeddings[1:] = (embeddings / embeddings.pow(2).mean().sqrt()).to(
            self.item_embeddings
        )

    def keep_item_embeddings(self) -> None:
        """Save e_v with the weights, if there are slots: a checkpoint serves without the backbone."""
        if hasattr(self, "item_embeddings"):
            self.register_buffer("item_embeddings", self.item_embeddings, persistent=True)

    @property
    def packs(self) -> bool:
        """Whether prompts that go on from one prefix are read in one row with it."""
        return packs(trunk_of(self.language_model))

    def embed(
        self, token_ids: Tensor, item_rows: Tensor | None, soft_rows: Tensor | None
    ) -> Tensor:
        """What stands at each position, as ``Template.batch`` says it. [..., T] -> [..., T, H]"""
        embeddings = self.language_model.get_input_embeddings()(token_ids)
        if item_rows is not None:
            slots = self.linear_proj(self.item_embeddings[item_rows.clamp(min=0)])
            is_slot = (item_rows >= 0).unsqueeze(-1)
            embeddings = torch.where(is_slot, slots.to(embeddings.dtype), embeddings)
        if soft_rows is not None:
            vectors = self.soft_vectors[soft_rows.clamp(min=0)].to(embeddings.dtype)
            embeddings = torch.where((soft_rows >= 0).unsqueeze(-1), vectors, embeddings)
        return embeddings

    def forward(
        self,
        token_ids: Tensor,
        attention_mask: Tensor,
        item_rows: Tensor | None = None,
        soft_rows: Tensor | None = None,
        prefix_ids: Tensor | None = None,
        prefix_item_rows: Tensor | None = None,
        prefix_soft_rows: Tensor | None = None,
        prefix_mask: Tensor | None = None,
        prefix_of: Tensor | None = None,
    ) -> States:
        """The last hidden states of a batch; the arguments as ``Template.batch`` makes them, or
        ``Template.continued``."""
        embeddings = self.embed(token_ids, item_rows, soft_rows)
        trunk = trunk_of(self.language_model)
        if prefix_ids is None:
            output = trunk(inputs_embeds=embeddings, attention_mask=attention_mask)
            return States(output.last_hidden_state, attention_mask)
        prefix = self.embed(prefix_ids, prefix_item_rows, prefix_soft_rows)
        if prefix_of is None:
            prefix, hidden = continue_prefix(trunk, prefix, embeddings, attention_mask)
        else:
            prompts = Prompts(prefix, prefix_mask, prefix_of, embeddings, attention_mask)
            prefix, hidden = continue_prefixes(trunk, prompts)
        return States(hidden, attention_mask, prefix, prefix_mask, prefix_of)


def trunk_of(language_model: nn.Module) -> nn.Module:
    """The part of a model that reads a prompt and ends in hidden states, with its adapters."""
    if language_model.config.is_encoder_decoder:
        return language_model.get_encoder()
    if language_model.get_output_embeddings() is None:  # loaded without a head
        return language_model
    plain = language_model
    if hasattr(plain, "get_base_model"):  # under adapters
        plain = plain.get_base_model()
    # Llama 4 names as its base what only its variant for pictures has.
    return plain.model if plain.base_model is plain else plain.base_model


def without_head(language_model: nn.Module) -> nn.Module:
    """A model that was loaded with its head, without peft's wrapper, as it would be without.

    A T5 keeps its own, since encoder and decoder are no part by themselves.
    """
    if language_model.config.is_encoder_decoder:
        return language_model.base_model
    return trunk_of(language_model)


class ItemPromptModel(ItemEncoder):
    """An encoder of histories with a pooled readout: one hidden state each.

    Args:
        language_model, item_embeddings: as ``ItemEncoder``.
        pooling: see ``readout.pool``.
    """

    def __init__(self, language_model: nn.Module, item_embeddings: Tensor | None, pooling: str):
        super().__init__(language_model, item_embeddings)
        self.pooling = pooling

    def forward(
        self, with_states: bool = False, **prompts: Tensor
    ) -> Tensor | tuple[Tensor, States]:
        """h^u of every prompt (Eq. 1).

        Args:
            with_states: whether the states that were pooled are given, too.
            prompts: as ``Template.batch`` makes them.

        Returns:
            [B, hidden] float32; with the states, that and ``States``.
        """
        states = super().forward(**prompts)
        vectors = pooled(states, self.pooling)
        return (vectors, states) if with_states else vectors
