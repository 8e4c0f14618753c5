import numpy as np
import pytest
import torch
from conftest import small_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.language_model.prompt import items_of, make_prompt, of_histories
from recbole_tslrec.language_model.prompts.segments import Items, Words
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.source import open_source

INSTRUCTION = "given the user history"


def naive_prompt(prompt: Template, history: list[int]) -> list[tuple[str, int]]:
    before, items, after = prompt.segments
    slots = [("slot", row) for row in history[-items.most :]]
    return [("word", id) for id in before.ids] + slots + [("word", id) for id in after.ids]


@given(
    st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 8),
    st.lists(st.integers(0, 50), max_size=3),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_batch_is_the_naive_prompt_padded_on_the_right(histories, max_history, before, after):
    items = Items("history", slots=True, most=max_history)
    prompt = Template((Words(tuple(before)), items, Words(tuple(after))), 64)
    batch = prompt.batch(of_histories([np.array(history) for history in histories]))
    for row, history in enumerate(histories):
        expected = naive_prompt(prompt, history)
        length = int(batch["attention_mask"][row].sum())
        assert length == len(expected)
        assert batch["attention_mask"][row, :length].all()
        for position, (kind, value) in enumerate(expected):
            slot = int(batch["item_rows"][row, position])
            assert slot == (value if kind == "slot" else -1)
            if kind == "word":
                assert int(batch["token_ids"][row, position]) == value
        assert (batch["item_rows"][row, length:] == -1).all()
    assert batch["token_ids"].dtype == batch["item_rows"].dtype == torch.int64


@pytest.mark.parametrize(
    ("opening", "closing"), [("<s>", None), ("<s>", "</s>"), (None, "</s>"), (None, None)]
)
def test_special_tokens_stand_around_the_whole_prompt(opening, closing):
    tokenizer = small_tokenizer(opening, closing)
    prompt = make_prompt(tokenizer, INSTRUCTION, "response :", 5, 64, "key")
    words = tokenizer.convert_ids_to_tokens(list(prompt.segments[0].ids))
    assert words == [opening, *INSTRUCTION.split()][opening is None :]
    words = tokenizer.convert_ids_to_tokens(list(prompt.segments[-1].ids))
    assert words == ["response", ":", *([closing] if closing else [])]


def test_history_is_cut_to_the_context_and_words_that_fill_it_are_refused():
    tokenizer = small_tokenizer()
    assert items_of(make_prompt(tokenizer, INSTRUCTION, "response :", 50, 10, "key")).most == 3
    with pytest.raises(ValueError, match="key and llm_response.*7 positions.*context has 7"):
        make_prompt(tokenizer, INSTRUCTION, "response :", 50, 7, "key")


@pytest.mark.parametrize("instruction", ["", "\u200b", " \u00ad"])
def test_an_instruction_of_no_words_is_refused(instruction):
    """BERT's tokenizer cleans such letters away, and would not tell where [CLS] belongs."""
    tokenizer = open_source("embedded").tokenizer
    with pytest.raises(ValueError, match="^key: the tokenizer finds no word in .*. Set key: <"):
        make_prompt(tokenizer, instruction, "response :", 5, 64, "key")
