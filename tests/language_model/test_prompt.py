import numpy as np
import pytest
import torch
from conftest import small_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.language_model.prompt import Prompt, make_prompt

INSTRUCTION = "given the user history"


def naive_prompt(prompt: Prompt, history: list[int]) -> list[tuple[str, int]]:
    history = history[-prompt.max_history :]
    words = [("word", token) for token in prompt.before]
    return words + [("slot", row) for row in history] + [("word", token) for token in prompt.after]


@given(
    st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 8),
    st.lists(st.integers(0, 50), max_size=3),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_batch_is_the_naive_prompt_padded_on_the_right(histories, max_history, before, after):
    prompt = Prompt(tuple(before), tuple(after), max_history)
    batch = prompt.batch([np.array(history) for history in histories])
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
    words = tokenizer.convert_ids_to_tokens(list(prompt.before))
    assert words == [opening, *INSTRUCTION.split()][opening is None :]
    words = tokenizer.convert_ids_to_tokens(list(prompt.after))
    assert words == ["response", ":", *([closing] if closing else [])]


def test_history_is_cut_to_the_context_and_words_that_fill_it_are_refused():
    tokenizer = small_tokenizer()
    assert make_prompt(tokenizer, INSTRUCTION, "response :", 50, 10, "key").max_history == 3
    with pytest.raises(ValueError, match="key and llm_response.*7 positions.*context has 7"):
        make_prompt(tokenizer, INSTRUCTION, "response :", 50, 7, "key")
