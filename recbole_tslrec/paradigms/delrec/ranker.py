"""What is trained of DELRec: the language model with the learned vectors fixed, and before that they.

Stage 1 trains the vectors P alone on two tasks, temporal analysis and pattern simulating:

    L = w_TA L_TA + w_RPS L_RPS,    w_i = ||dL_i/dP||^(-1/2) / sum_j ||dL_j/dP||^(-1/2)

Stage 2 trains adapters on the choice of the next item; P stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from recbole_tslrec.language_model.learner import TrainedParts
from recbole_tslrec.language_model.reader import load_for_prompts
from recbole_tslrec.paradigms.delrec.examples import ANALYSIS, PATTERN
from recbole_tslrec.recbole_bridge.candidate_examples import candidate_errors
from recbole_tslrec.recbole_bridge.language_model_recommender import without_wrapper
from recbole_tslrec.store import processes

if TYPE_CHECKING:
    from recbole_tslrec.language_model.encoder import ItemEncoder
    from recbole_tslrec.language_model.prompts.segments import TokenTable
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.paradigms.delrec.verbalizers import Verbalizer

VECTORS = "soft_vectors"  # the reader's buffer
_TITLE = "title_"  # before the names of what the reader does not read


def gradient_weights(gradients: Tensor) -> Tensor:
    """The tasks' weights: by the norms of their gradients to the power of -1/2, summing to 1.

    Where a gradient is 0, its task has nothing to teach; all weights are equal then.

    Args:
        gradients: one a task, [n, ...].

    Returns:
        [n] float32.
    """
    norms = gradients.detach().float().flatten(1).norm(dim=1)
    if (norms == 0).any():
        return torch.full_like(norms, 1 / len(norms))
    weights = norms.rsqrt()
    return weights / weights.sum()


class CandidateRanker(TrainedParts):
    """A language model that scores the candidates in its prompts; the vectors in these are fixed.

    Args:
        reader: the language model with its item slots, if there are any, and a buffer of vectors.
        verbalizer: what reads the scores out.
    """

    def __init__(self, reader: ItemEncoder, verbalizer: Verbalizer):
        super().__init__(reader)
        self.verbalizer = verbalizer

    def scores(self, batch: Mapping[str, Tensor], vectors: Tensor | None = None) -> Tensor:
        """The candidates' scores by their places, [B, k] float32.

        Args:
            batch: as the verbalizer makes it.
            vectors: in place of the reader's, [n, H].
        """
        prompts = {name: own for name, own in batch.items() if not name.startswith(_TITLE)}
        if vectors is None:
            states = self.reader(**prompts)
        else:
            states = functional_call(self.reader, {VECTORS: vectors}, (), prompts)
        return self.verbalizer.scores(self.reader.language_model, states, batch)

    def forward(self, place: Tensor, count: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """The loss of a batch (stage 2): ``error`` [B], the cross entropy over the candidates.

        Args:
            place: of the target among the candidates, int64 [B].
            count: of the candidates, int64 [B].
            batch: as the verbalizer makes it.
        """
        return {"error": candidate_errors(self.scores(batch), place, count)}


class Imitation(TrainedParts):
    """The learned vectors while they are trained (stage 1); all else is frozen.

    Args:
        ranker: whose vectors it starts from.
    """

    def __init__(self, ranker: CandidateRanker):
        super().__init__(ranker.reader)
        self.ranker = ranker.requires_grad_(False)
        self.soft_vectors = nn.Parameter(ranker.reader.soft_vectors.detach().clone())

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The losses of a batch of users.

        Args:
            batch: as ``examples.collate`` makes it.

        Returns:
            ``error`` [B]: the plain sum of both tasks' cross entropies. Its gradient is that of their
            weighted sum.
        """
        # A copy of the vectors for each task: one pass back gives both gradients, to be weighted here.
        vectors = self.soft_vectors.expand(2, -1, -1).clone()
        if vectors.requires_grad:
            vectors.register_hook(_weighted)
        errors = []
        for own, prefix in zip(vectors, (ANALYSIS, PATTERN), strict=True):
            part = {
                name.removeprefix(prefix): tensor
                for name, tensor in batch.items()
                if name.startswith(prefix)
            }
            place, count = part.pop("place"), part.pop("count")
            errors.append(candidate_errors(self.ranker.scores(part, own), place, count))
        return {"error": sum(errors)}


def _weighted(gradients: Tensor) -> Tensor:
    """The tasks' gradients by their weights, which are those of the whole batch."""
    weights = gradient_weights(processes.mean(gradients))  # each process has its share of it
    return gradients * weights[:, None, None].to(gradients)


def make_ranker(
    config,
    source: LanguageModelSource,
    titles: TokenTable | None,
    item_embeddings: Tensor,
    with_adapters: bool,
) -> CandidateRanker:
    """The ranker as it is before training, its vectors drawn, on the experiment's device.

    Args:
        config: RecBole's config with our keys.
        source: an opened language model, causal or an encoder-decoder.
        titles: the items' texts as they are answered; None where letters are.
        item_embeddings: what slots project, [n_items, d] with the padding row 0; read for slots alone.
        with_adapters: whether the language model is to be trained.

    Raises:
        ValueError: the language model has no head for the answers or one of an unknown kind, or takes
            no adapters there.
    """
    from recbole_tslrec.language_model.encoder import ItemEncoder, without_head
    from recbole_tslrec.language_model.load import keep_few_activations

    whole = load_for_prompts(config, source, with_adapters, head=True)
    if with_adapters:
        whole = without_wrapper(whole)
    elif config["llm_gradient_checkpointing"]:  # the gradient goes back through frozen layers
        keep_few_activations(whole)
    model = without_head(whole) if titles is None else whole
    slots = config["delrec_items"] == "slots"
    reader = ItemEncoder(model, item_embeddings.cpu() if slots else None)
    reader.keep_item_embeddings()
    vectors = _drawn_vectors(model, config["delrec_soft_vectors"], config["seed"])
    reader.register_buffer(VECTORS, vectors, persistent=True)
    verbalizer = _verbalizer(config, source, whole, titles)
    return CandidateRanker(reader, verbalizer).to(config["device"])


@torch.no_grad()
def _drawn_vectors(model: nn.Module, count: int, seed: int) -> Tensor:
    """The embeddings of tokens drawn at random. [count, H] float32"""
    words = model.get_input_embeddings()
    drawn = np.random.default_rng(seed).integers(0, words.num_embeddings, count)
    return words(torch.from_numpy(drawn).to(words.weight.device)).float().clone()


def _verbalizer(
    config, source: LanguageModelSource, model: nn.Module, titles: TokenTable | None
) -> Verbalizer:
    from recbole_tslrec.language_model.kinds import ENCODER_DECODER
    from recbole_tslrec.language_model.readout import head_of
    from recbole_tslrec.language_model.verbalizer import LAST_WORDS, FrozenHead, letters_behind
    from recbole_tslrec.paradigms.delrec.verbalizers import Letters, Titles

    writes = source.kind == ENCODER_DECODER
    if titles is not None:
        return Titles(titles, config["n_candidates"], writes)
    words = "" if writes else LAST_WORDS
    tokens = letters_behind(source, words, config["n_candidates"])
    return Letters(FrozenHead(head_of(model).rows(tokens)), writes)
