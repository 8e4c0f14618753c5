"""Batches of prompts against a naive reference, a position at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_tokenizer
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recbole_tslrec.language_model.batches import PositionBudgetSampler
from recbole_tslrec.language_model.prompts.segments import (
    Field,
    Items,
    Soft,
    TokenTable,
    Words,
    tokens_of,
    tokens_of_texts,
)
from recbole_tslrec.language_model.prompts.template import (
    ANSWER,
    Template,
    answers_in_context,
    make_template,
    with_answer,
)
from recbole_tslrec.language_model.source import open_source

N_ITEMS = 6


def table(texts: list[list[int]]) -> TokenTable:
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return TokenTable(np.array(sum(texts, []), dtype=np.int64), lengths)


def text(tokens: TokenTable, row: int) -> list[int]:
    return tokens.tokens[tokens.starts[row] :][: tokens.lengths[row]].tolist()


# ---- the reference ------------------------------------------------------------------------------


def naive_segment(segment, value) -> list[tuple[str, int]]:
    """The positions of one segment in one prompt: what each is, and which."""
    if isinstance(segment, Words):
        return [("word", token) for token in segment.ids]
    if isinstance(segment, Soft):
        return [("soft", segment.first + number) for number in range(segment.size)]
    if isinstance(segment, Field):
        return [("word", token) for token in value]
    positions = []
    for place, row in enumerate(value):
        if place:
            positions += [("word", token) for token in segment.separator]
        if segment.labels is not None:
            positions += [("word", token) for token in text(segment.labels, place)]
        if segment.slots:
            positions.append(("slot", row))
        if segment.texts is not None:
            positions += [("word", token) for token in text(segment.texts, row)]
    return positions


def naive_prompt(template: Template, values: dict[str, list[int]]) -> list[tuple[str, int]] | None:
    """One prompt, cut an item and a token at a time; None if it cannot be made to fit."""
    values = {name: list(value) for name, value in values.items()}
    for segment in template.segments:
        most = getattr(segment, "most", None)
        if most is not None and isinstance(segment, Field) and segment.keep == "start":
            values[segment.name] = values[segment.name][:most]
        elif most is not None:
            values[segment.name] = values[segment.name][-most:]

    def whole() -> list[tuple[str, int]]:
        parts = [
            naive_segment(segment, values.get(getattr(segment, "name", "")))
            for segment in template.segments
        ]
        return sum(parts, [])

    for segment in template.segments:
        if isinstance(segment, Items) and not segment.candidates:
            while len(whole()) > template.context_length and len(values[segment.name]) > 1:
                del values[segment.name][0]
    for segment in template.segments:
        if isinstance(segment, Field):
            while len(whole()) > template.context_length and values[segment.name]:
                del values[segment.name][-1 if segment.keep == "start" else 0]
    return whole() if len(whole()) <= template.context_length else None


# ---- what is drawn ------------------------------------------------------------------------------

ids = st.lists(st.integers(0, 50), max_size=3)
texts = st.lists(ids, min_size=N_ITEMS, max_size=N_ITEMS).map(table)


@st.composite
def segments(draw, number: int):
    kind = draw(st.sampled_from(["words", "soft", "field", "items", "items"]))
    if kind == "words":
        return Words(tuple(draw(ids)))
    if kind == "soft":
        return Soft(draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    most = draw(st.none() | st.integers(1, 4))
    if kind == "field":
        return Field(f"field{number}", most, draw(st.sampled_from(["start", "end"])))
    shown = draw(st.none() | texts)
    return Items(
        f"items{number}",
        slots=shown is None or draw(st.booleans()),
        texts=shown,
        labels=draw(st.none() | texts),
        separator=tuple(draw(ids)),
        candidates=most is None and draw(st.booleans()),
        most=most,
    )


@st.composite
def templates(draw):
    parts = [draw(segments(number)) for number in range(draw(st.integers(0, 5)))]
    parts.append(Items("last", slots=True))
    context = draw(st.integers(8, 30) | st.just(1000))
    return Template(tuple(parts), context, draw(st.booleans()))


@st.composite
def examples(draw, template: Template, most: int = 4):
    n_examples = draw(st.integers(1, most))
    rows = st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=N_ITEMS)
    return [
        {
            segment.name: draw(ids if isinstance(segment, Field) else rows)
            for segment in template.segments
            if isinstance(segment, Field | Items)
        }
        for _ in range(n_examples)
    ]


def values_of(examples: list[dict[str, list[int]]]) -> dict[str, list[np.ndarray]]:
    return {name: [np.array(e[name], dtype=np.int64) for e in examples] for name in examples[0]}


def positions_of(batch: dict[str, torch.Tensor], row: int, pad: str = "right") -> list:
    """A prompt of a batch in the reference's form; its padding holds nothing."""
    found = []
    mask = batch["attention_mask"][row].tolist()
    assert mask == sorted(mask, reverse=pad == "right")
    for position, real in enumerate(mask):
        slot = int(batch["item_rows"][row, position]) if "item_rows" in batch else -1
        soft = int(batch["soft_rows"][row, position]) if "soft_rows" in batch else -1
        token = int(batch["token_ids"][row, position])
        assert slot < 0 or soft < 0
        if not real:
            assert (slot, soft, token) == (-1, -1, 0)
        elif slot < 0 and soft < 0:
            found.append(("word", token))
        else:
            assert token == 0
            found.append(("slot", slot) if slot >= 0 else ("soft", soft))
    return found


def prefix_of(batch: dict[str, torch.Tensor], example: int | None = None) -> list:
    """The positions of a prefix that all prompts share, or of one example's."""
    tokens = batch["prefix_ids"]
    nothing = torch.full_like(tokens, -1)
    parts = {
        "token_ids": tokens,
        "item_rows": batch.get("prefix_item_rows", nothing),
        "soft_rows": batch.get("prefix_soft_rows", nothing),
        "attention_mask": batch.get("prefix_mask", torch.ones_like(tokens)),
    }
    if example is None:
        return positions_of({name: part[None] for name, part in parts.items()}, 0)
    return positions_of(parts, example, pad="left")


# ---- tests --------------------------------------------------------------------------------------


@given(st.data())
def test_a_batch_is_the_naive_prompts(data):
    template = data.draw(templates())
    drawn = data.draw(examples(template))
    expected = [naive_prompt(template, example) for example in drawn]
    if None in expected:
        with pytest.raises(ValueError, match="the prompt: its words and candidates"):
            template.batch(values_of(drawn))
        return
    batch = template.batch(values_of(drawn))
    assert all(part.dtype == torch.int64 and part.is_contiguous() for part in batch.values())
    prefix = prefix_of(batch) if "prefix_ids" in batch else []
    for row, prompt in enumerate(expected):
        assert prefix + positions_of(batch, row) == prompt
    own = batch["attention_mask"].sum(1).tolist()
    assert template.lengths(values_of(drawn)).tolist() == own
    if template.shared_prefix:
        assert len(prefix) == template.n_leading


@given(st.data())
def test_prompts_that_go_on_from_a_users_prefix_are_the_whole_prompts(data):
    front = data.draw(templates())
    candidate = Items("candidate", slots=True, texts=data.draw(texts), candidates=True)
    whole = Template((*front.segments, candidate, Words(tuple(data.draw(ids)))), 10_000)
    users = data.draw(examples(whole))
    batch = whole.continued(values_of(users), "candidate")
    prompts = [
        (number, user | {"candidate": [row]})
        for number, user in enumerate(users)
        for row in user["candidate"]
    ]
    assert batch["prefix_of"].tolist() == [number for number, _ in prompts]
    for row, (number, prompt) in enumerate(prompts):
        whole_prompt = prefix_of(batch, number) + positions_of(batch, row)
        assert whole_prompt == naive_prompt(whole, prompt)


@given(st.data())
def test_a_users_prefix_leaves_room_for_the_longest_candidate(data):
    candidate = Items("candidate", texts=data.draw(texts), candidates=True)
    history = Items("history", slots=True)
    whole = Template((Words((1, 2)), history, candidate, Words((3,))), data.draw(st.integers(4, 9)))
    users = data.draw(examples(whole))
    longest = [max(len(text(candidate.texts, row)) for row in u["candidate"]) for u in users]
    assume(all(2 + 1 + length + 1 <= whole.context_length for length in longest))
    batch = whole.continued(values_of(users), "candidate")
    for number, (user, length) in enumerate(zip(users, longest, strict=True)):
        kept = user["history"][-(whole.context_length - 3 - length) :]
        assert prefix_of(batch, number) == [("word", 1), ("word", 2), *(("slot", r) for r in kept)]


@given(st.data())
def test_lengths_keep_batches_within_a_budget_of_positions(data):
    template = data.draw(templates())
    drawn = data.draw(examples(template, most=12))
    assume(None not in [naive_prompt(template, example) for example in drawn])
    lengths = template.lengths(values_of(drawn))
    assume(lengths.min() > 0)
    sampler = PositionBudgetSampler(lengths, 40, seed=0)
    computed = 0
    for numbers in sampler.batches():
        batch = template.batch(values_of([drawn[number] for number in numbers]))
        assert batch["token_ids"].numel() <= 40 or len(numbers) == 1
        computed += batch["token_ids"].numel()
    assert computed == sampler.positions_an_epoch()


def test_more_candidates_than_labels_are_refused():
    candidates = Items("pool", slots=True, labels=table([[1], [2]]), candidates=True)
    with pytest.raises(ValueError, match=r"pool: \[3\] items stand in one prompt, and 2 can"):
        Template((candidates,), 100).batch({"pool": [np.array([1, 2, 3])]})
    with pytest.raises(ValueError, match=r"pool: \[2\] items"):
        Template((replace(candidates, most=1),), 100).batch({"pool": [np.array([1, 2])]})


def test_an_answer_is_never_cut():
    """A prompt that fills the context gives way to it."""
    texts = TokenTable(np.array([7, 8]), np.array([0, 1, 1]))
    prompt = Template((Words((1, 2)), Items("history", texts=texts), Words((3,))), 5)
    values = {"history": [np.array([1, 2]), np.array([2])], ANSWER: [np.array([9])] * 2}
    batch = with_answer(prompt).batch(values)
    assert batch["token_ids"].tolist() == [[1, 2, 8, 3, 9]] * 2
    with pytest.raises(ValueError, match="context"):
        with_answer(replace(prompt, context_length=4)).batch(values)


def test_items_that_are_not_shown_are_refused():
    with pytest.raises(ValueError, match="pool: its items have neither slots nor texts"):
        Items("pool", labels=table([[1], [2]]))


@pytest.mark.parametrize(
    ("opening", "closing"), [("<s>", None), ("<s>", "</s>"), (None, "</s>"), (None, None)]
)
def test_special_tokens_stand_around_the_whole_prompt(opening, closing):
    tokenizer = small_tokenizer(opening, closing)
    titles = TokenTable.of(tokenizer, ["", "purchase history", "user ' s"], most=2)
    template = make_template(tokenizer, [Items("history", texts=titles, separator=(8,))], 64)
    batch = template.batch({"history": [np.array([2, 1])]})
    words = tokenizer.convert_ids_to_tokens(batch["token_ids"][0].tolist())
    between = tokenizer.convert_ids_to_tokens(8)
    expected = [opening, "user", "'", between, "purchase", "history", closing]
    assert words == [word for word in expected if word]


def test_of_users_without_a_candidate_nothing_is_asked():
    candidate = Items("candidate", slots=True, candidates=True)
    whole = Template((Words((1, 2)), candidate, Words((3,))), 10)
    batch = whole.continued(values_of([{"candidate": []}, {"candidate": []}]), "candidate")
    assert len(batch["token_ids"]) == len(batch["prefix_of"]) == 0


def test_tables_of_texts_may_be_empty():
    titles = TokenTable.of(small_tokenizer(), [])
    assert len(titles.tokens) == len(titles.lengths) == len(titles.starts) == 0


def blanks_first_tokenizer():
    """As Llama 2's: a text begins with a blank, which joins the word after it."""
    pieces = ["<unk>", "▁A", "▁B", "A", "B", "AB", "▁Response", ":", "\n", "▁"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", "A"), ("▁", "B"), ("A", "B")]
    letters = sorted({letter for piece in pieces[1:] for letter in piece} - vocabulary.keys())
    vocabulary |= {letter: len(vocabulary) + n for n, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_letters_have_the_ids_that_they_have_behind_the_prompt():
    tokenizer = blanks_first_tokenizer()
    alone = [tokenizer(letter)["input_ids"] for letter in "AB"]
    behind = answers_in_context(tokenizer, "Response:\n", ["A", "B"])
    assert tokenizer.convert_ids_to_tokens(behind) == ["A", "B"]
    assert alone == [
        tokenizer.convert_tokens_to_ids(["▁A"]),
        tokenizer.convert_tokens_to_ids(["▁B"]),
    ]


def bytes_tokenizer():
    """As SmolLM2's and Llama 3's: pieces of bytes, and a chat's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


TOKENIZERS = [
    open_source("embedded").tokenizer,  # BERT's WordPiece
    bytes_tokenizer(),
    blanks_first_tokenizer(),
    small_tokenizer(),
]
SPECIAL = sorted({name for one in TOKENIZERS for name in one.all_special_tokens})


def ids_of(texts: TokenTable) -> list[list[int]]:
    return [text(texts, row) for row in range(len(texts.lengths))]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_texts_without_special_tokens_are_as_any_words(texts):
    assume(not any(name in one for name in SPECIAL for one in texts))
    for tokenizer in TOKENIZERS:
        as_words = [list(tokens_of(tokenizer, one)) for one in texts]
        assert ids_of(TokenTable.of(tokenizer, texts)) == as_words
        assert tokens_of_texts(tokenizer, texts) == as_words
        behind = ids_of(TokenTable.behind(tokenizer, "(A)", texts))
        front = list(tokens_of(tokenizer, "(A)"))
        for one, own, alone in zip(texts, behind, as_words, strict=True):
            whole = list(tokens_of(tokenizer, "(A)" + one))
            assert own == (whole[len(front) :] if whole[: len(front)] == front else alone)


@given(st.lists(st.lists(st.sampled_from([*SPECIAL, "a", " ", "the film"])).map("".join)))
def test_a_special_token_in_a_text_is_the_letters_it_is_written_in(texts):
    for tokenizer in TOKENIZERS[:2]:
        special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        for table in (TokenTable.of(tokenizer, texts), TokenTable.behind(tokenizer, "(A)", texts)):
            assert not special & {*table.tokens.tolist()}
        assert tokenizer(SPECIAL)["input_ids"] == [tokenizer(one)["input_ids"] for one in SPECIAL]
    assert [TOKENIZERS[1].decode(row) for row in tokens_of_texts(TOKENIZERS[1], texts)] == texts


def test_words_of_ours_may_name_special_tokens():
    assert tokens_of(TOKENIZERS[0], "[SEP]") == (TOKENIZERS[0].sep_token_id,)
    assert tokens_of(TOKENIZERS[1], "<|im_end|>") == (TOKENIZERS[1].eos_token_id,)
    assert len(tokens_of_texts(TOKENIZERS[1], ["<|im_end|>"])[0]) == len("<|im_end|>")


def test_a_tokenizer_that_cannot_be_told_reads_texts_as_it_does():
    def only_plain(texts, **options):
        if "split_special_tokens" in options:
            raise ValueError("not supported")
        return TOKENIZERS[1](texts, **options)

    assert tokens_of_texts(only_plain, ["a b"]) == [list(tokens_of(TOKENIZERS[1], "a b"))]


def test_answers_that_the_tokenizer_joins_or_splits_are_refused():
    tokenizer = blanks_first_tokenizer()
    with pytest.raises(ValueError, match="does not give the answer .* one token of its own"):
        answers_in_context(tokenizer, "Response:A", ["B"])  # becomes one token with the A
    with pytest.raises(ValueError, match="does not give the answer .* one token of its own"):
        answers_in_context(tokenizer, "Response:\n", ["A", "BA"])
    with pytest.raises(ValueError, match="same token to two"):
        answers_in_context(tokenizer, "Response:\n", ["x", "y"])  # both unknown
