"""Items that came after training: rows of the item table from their words alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from recbole_tslrec.data.import_.interaction_files import Columns
from recbole_tslrec.data.import_.item_text import atomic_rows, read_texts
from recbole_tslrec.data.import_.text_files import UNREADABLE, atomic_header
from recbole_tslrec.data.item_catalogue import joined
from recbole_tslrec.language_model.item_inputs import has_slots
from recbole_tslrec.language_model.item_states import read_items
from recbole_tslrec.language_model.reader import (
    make_text_encoder,
    open_source_for,
    text_prompts,
    tokenised_texts,
)
from recbole_tslrec.paradigms.tslrec.augmentation.controls import vectors_of
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import EnhancedFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import most_alike
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import EnhancedEmbedding
from recbole_tslrec.paradigms.tslrec.augmentation.text_controls import TextEmbedding
from recbole_tslrec.paradigms.tslrec.augmentation.tuned_texts import TextTuningStage, TunedText
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable
from recbole_tslrec.paradigms.tslrec.prompt import as_read_by, make_prompt
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import FineTuningStage
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel
from recbole_tslrec.recommendation.requests import named
from recbole_tslrec.recommendation.similar import kept_stages
from recbole_tslrec.stages.text_vectors import TextVectorsStage

# Directions in which the known items differ by less, beside the most, are rounding.
_LEAST = 1e-6


def add_new_items(
    trained: TrainedModel, texts: Mapping[str, str], show_progress: bool = False
) -> None:
    """Give the item table of a trained model rows for items that it was not trained on; in place.

    A new item is one that nobody has had: beside h', what the trained projection makes of its words, it
    takes the ids of the known items most like it. Its vector is scaled and turned as the known items'
    were. The rows come last, in the order of ``texts``; the data set stays as it was.

    Args:
        trained: a model whose vectors beside the ids come from items' words alone.
        texts: by the new items' tokens.
        show_progress: whether to draw a progress bar.

    Raises:
        ValueError: the model reads more of an item than its words, an item has no text, or a stage of
            the model is not kept.
    """
    _check(trained, texts)
    model, fusion = trained.model, trained.model.fusion
    vectors = vectors_of(trained.config)
    with torch.no_grad():
        pipeline = kept_stages(trained, vectors.stages)
        known = vectors.make(pipeline)
        new = _read(trained, texts, show_progress)
        rows = as_known(new, known, fusion.enhanced[1 : len(known) + 1].cpu()).to(fusion.enhanced)
    fusion.enhanced = torch.cat([fusion.enhanced, rows])
    of_known = vectors.for_similarity(known, pipeline)
    had = np.bincount(pipeline.histories.items, minlength=len(known) + 1)[1:] > 0
    is_new = torch.arange(len(known) + len(rows)) >= len(known)  # without padding
    warm = ~is_new
    warm[: len(known)] = torch.from_numpy(had) & of_known.any(dim=1)
    mean = of_known[of_known.any(dim=1)].mean(dim=0)  # whatever else is new, an item has one row
    alike = most_alike(torch.cat([of_known, new]) - mean, is_new, warm)
    fusion.alike = torch.cat([fusion.alike, alike.to(fusion.alike)])
    ids = model.id_embeddings
    no_ids = ids.new_zeros(len(rows), ids.shape[1])
    weight = model.item_table.parametrizations.weight
    weight.original = nn.Parameter(torch.cat([ids.detach(), no_ids]))
    model.n_items = model.item_table.num_embeddings = len(fusion.enhanced)


def _check(trained: TrainedModel, texts: Mapping[str, str]) -> None:
    model, config = trained.model, trained.config
    reads_words_alone = isinstance(model, EnhancedItemTable) and (
        vectors_of(config) in (TextEmbedding, TunedText)
        or (vectors_of(config) is EnhancedEmbedding and not has_slots(config))
    )
    if not reads_words_alone:
        raise ValueError(
            f"new_items: [{config['model']}] knows items by more than the words that a language model "
            f"reads here. Train a TSLRec model with enhancement=text or tuned_text, or with "
            f"item_prompt=text."
        )
    if reason := _no_place(trained):
        raise ValueError(
            f"new_items: [{config['model']}] has no place for them: {reason}. Train a model of another "
            f"backbone, such as TSLRec_SASRec, with fusion: gate and score_term: none."
        )
    if not texts:
        raise ValueError("new_items: none is given.")
    if empty := [token for token, text in texts.items() if not text.strip()]:
        raise ValueError(f"new_items: {named(empty)} without a text.")


def _no_place(trained: TrainedModel) -> str:
    """What a model has by item besides the rows of its fused table; empty for nothing."""
    model, config = trained.model, trained.config
    fusion, backbone = model.fusion, model.backbone
    if not isinstance(fusion, EnhancedFusion) or fusion.alike is None:
        return f"fusion: [{config['fusion']}] makes no row of words alone"
    if model.scoring_term is not None:
        return f"score_term: [{config['score_term']}] has a vector of each known item"
    if backbone.rows_beyond:
        return f"[{backbone.name}] has rows of its own behind the items'"
    if backbone.item_bias is not None:
        return f"[{backbone.name}] has a bias of each known item"
    if backbone.name == "TransRec":
        return "[TransRec] has a bias of each known item"
    if config["selected_features"]:
        return f"[{backbone.name}] reads the known items' features"
    return ""


def _read(trained: TrainedModel, texts: Mapping[str, str], show_progress: bool) -> Tensor:
    """What the language model makes of the words, before they are scaled: [n_new, hidden]."""
    config, source = trained.config, open_source_for(trained.config)
    kind = vectors_of(config)
    if kind is TextEmbedding:
        reader, prompt = make_text_encoder(config, source, tokenised_texts(config, source, texts))
    elif kind is TunedText:
        stages = TextVectorsStage, TextTuningStage
        reader, _ = kept_stages(trained, stages).stage(TextTuningStage).tuned_encoder()
        prompt = text_prompts(source, tokenised_texts(config, source, texts))
    else:
        fine_tuning = kept_stages(trained, (FineTuningStage,)).stage(FineTuningStage)
        reader = fine_tuning.tuned_model().reader
        prompt = as_read_by(reader, make_prompt(config, source, texts), config, training=False)
    with TemporaryDirectory() as folder:
        return read_items(reader, prompt, list(texts), Path(folder), "New items", show_progress)


def as_known(new: Tensor, known: Tensor, made_of_known: Tensor) -> Tensor:
    """Vectors scaled and turned as known ones were: standardised, and cut by PCA.

    Both together are one affine map, which is found from what it made of the known vectors. What a new
    vector has in directions in which these do not differ, is left out.

    Args:
        new: [n_new, width].
        known: [n, width].
        made_of_known: [n, columns].

    Returns:
        [n_new, columns] float32.
    """
    known, new = known.double(), new.double()
    centre, spread = known.mean(dim=0), known.std(dim=0, correction=0).clamp(min=1e-12)
    inputs = (known - centre) / spread
    mean = made_of_known.double().mean(dim=0)
    turn = torch.linalg.pinv(inputs, rtol=_LEAST) @ (made_of_known.double() - mean)
    return ((new - centre) / spread @ turn + mean).float()


def read_new_items(
    path: Path,
    columns: str | Sequence[str] | None = None,
    item_column: str = "item_id",
    between_words: str = " ",
) -> dict[str, str]:
    """The texts of new items by token, of a file as ``import`` takes it.

    Args:
        path: RecBole's ``.item``, or lines as ``read_texts`` takes them.
        columns: of an ``.item``, those that hold the texts, as ``item_text``; None: all.
        item_column: that of the tokens, RecBole's ``ITEM_ID_FIELD``; if it is not there, a common name.
        between_words: of a ``token_seq`` column of an ``.item``, RecBole's ``seq_separator``.

    Raises:
        ValueError: a line is something else or has no text, a column is not there, or a token comes
            twice; names file and line.
    """
    header = atomic_header(path)
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    rows = (
        read_texts(path)
        if header is None
        else _of_columns(path, header, columns, item_column, between_words)
    )
    for line, token, text in rows:
        if not text:
            raise ValueError(f"{path}, line {line}: [{token}] has no text. Give it one.")
        if token in lines:
            raise ValueError(f"{path}, line {line}: [{token}] has line {lines[token]} already.")
        texts[token], lines[token] = text, line
    return texts


def _of_columns(
    path: Path,
    header: Sequence[str],
    columns: str | Sequence[str] | None,
    item_column: str,
    between_words: str,
) -> Iterator[tuple[int, str, str]]:
    """Line, token and text of an ``.item``, the text as in training."""
    names, kinds = zip(*(column.rsplit(":", 1) for column in header), strict=True)
    at_item = _place_of_items(names, item_column, path)
    others = [name for name in names if name != names[at_item]]
    chosen = [columns] if isinstance(columns, str) else list(columns or others)
    if missing := [name for name in chosen if name not in others]:
        raise ValueError(
            f"new_items: [{path}] has no column {missing}, of which item_text says that it holds the "
            f"texts. It has {others}. Rename one."
        )
    kind_of = zip(names, kinds, strict=True)
    words = {name: between_words for name, kind in kind_of if kind == "token_seq"}
    for line, token, values in atomic_rows(path, at_item):
        readable = ("" if value in UNREADABLE else value for value in values)
        by_name = dict(zip(others, readable, strict=True))
        yield line, token, joined((by_name[name] for name in chosen), chosen, words)


def _place_of_items(names: Sequence[str], item_column: str, path: Path) -> int:
    if item_column in names:
        return names.index(item_column)
    try:
        return Columns().find("item", list(names), path)
    except ValueError:
        raise ValueError(
            f"new_items: [{path}] has no column [{item_column}], in which the model's data have the "
            f"items. It has {list(names)}. Rename one."
        ) from None
