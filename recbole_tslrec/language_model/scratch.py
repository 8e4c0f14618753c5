"""A T5 for a vocabulary of one's own: from random numbers, or a trained one that is given more rows."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

# By the value of the key `llm`: a small one for a CPU, and t5-small's shape.
SHAPES = {
    "scratch": {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4},
    "scratch:t5-small": {
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
    },
}
CONTEXT = 512  # positions of a prompt, as t5-small's tokenizer has it; a T5 has no limit of its own


def scratch_model(shape: str, size: int, attention: str, seed: int) -> PreTrainedModel:
    """A T5 with its head and random weights, drawn as transformers draws them.

    Args:
        shape: a name in ``SHAPES``.
        size: of its vocabulary; 0 is padding and begins an answer, 1 ends a text.
        attention: transformers' name of an implementation.
        seed: the same seed gives the same weights, whatever was drawn before.
    """
    config = T5Config(vocab_size=size, use_cache=False, decoder_start_token_id=0, **SHAPES[shape])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration._from_config(config, attn_implementation=attention).eval()


@torch.no_grad()
def give_rows(model: PreTrainedModel, known: int, size: int, seed: int) -> None:
    """Give a trained model rows for the ids from ``known`` up to ``size``, among the words it knows.

    They are drawn at the mean and the spread of its own rows; in a head of its own likewise.
    """
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is not words.weight:
        # transformers says "tied" of every T5, and leaves two tables apart (T5 1.1, Flan-T5, mT5) only
        # as they are loaded: with rows of their own they would become one.
        model.config.tie_word_embeddings = False
    model.resize_token_embeddings(known, mean_resizing=False)  # without those of an earlier call
    model.resize_token_embeddings(size, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for table in {id(table): table for table in tables}.values():
        own = table[:known].float()
        mean, spread = own.mean(dim=0), own.std(dim=0)
        drawn = torch.randn(size - known, table.shape[1], generator=generator)
        table[known:] = (drawn.to(own) * spread + mean).to(table)


def check_marks(llm: str, config: T5Config) -> None:
    """Raise ValueError unless padding and the end of a text have a T5's ids."""
    if (config.pad_token_id, config.eos_token_id) != (0, 1) or not hasattr(config, "d_model"):
        raise ValueError(
            f"llm: [{llm}] is a {config.model_type}, not a T5: its tokens for padding and the end are "
            f"others. Give a T5, such as t5-small, or one of {', '.join(SHAPES)}."
        )
