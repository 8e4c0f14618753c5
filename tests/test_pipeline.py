"""What enters the stages, what they depend on, and what they refuse."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_atomic
from support.stages import STAGES, categories, item_vectors, pipeline_of, stored
from support.texts import write_texts

from recbole_tslrec.config.key import KEYS
from recbole_tslrec.data.keys import CANDIDATES, CONTROL
from recbole_tslrec.paradigms.delrec.keys import OWN as DELREC
from recbole_tslrec.paradigms.delrec.keys import PROMPTS as DELREC_PROMPTS
from recbole_tslrec.paradigms.delrec.keys import SOFT_PROMPTS
from recbole_tslrec.paradigms.llamarec.keys import OWN as LLAMAREC
from recbole_tslrec.paradigms.llmtrsr.keys import OWN as LLM_TRSR
from recbole_tslrec.paradigms.llmtrsr.keys import SUMMARIES, TRSR_CONTROL
from recbole_tslrec.paradigms.p5.keys import CODES, WRITING
from recbole_tslrec.paradigms.p5.keys import OWN as P5
from recbole_tslrec.paradigms.pod.keys import OWN as POD
from recbole_tslrec.paradigms.tslrec.augmentation.keys import SCORE_TERM
from recbole_tslrec.paradigms.tslrec.augmentation.stages import ENHANCED_EMBEDDING
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import user_preferences
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import ITEM_EMBEDDING, BackboneStage
from recbole_tslrec.stages.categories import CATEGORY, CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.store.item_tensors import ItemTensors


def histories(n_users=30, n_items=12, seed=0) -> dict[str, list[str]]:
    """Every user's items, the last two of which are held out; every item occurs in training."""
    generator = np.random.default_rng(seed)
    users = {
        f"u{user}": [f"i{item}" for item in generator.integers(0, n_items, size=9)]
        for user in range(n_users)
    }
    users["u0"][:7] = [f"i{item}" for item in range(7)]
    users["u1"][:7] = [f"i{item}" for item in range(n_items - 7, n_items)]
    return users


def write_histories(folder, name, users, order=None) -> None:
    rows = [
        (user, item, float(time))
        for user in (order or users)
        for time, item in enumerate(users[user])
    ]
    # Training rows first, so that ids do not depend on what is held out.
    rows.sort(key=lambda row: row[2] >= len(users[row[0]]) - 2)
    write_atomic(folder / "data", name, rows)


def write_with_other_held_out(folder, n_last: int) -> dict[str, list[str]]:
    """The data sets one and other, in which each user's last items are others; gives the first."""
    users, generator = histories(), np.random.default_rng(1)
    changed = {
        user: items[:-n_last] + [f"i{item}" for item in generator.integers(0, 12, size=n_last)]
        for user, items in users.items()
    }
    assert changed != users
    write_histories(folder, "one", users)
    write_histories(folder, "other", changed)
    return users


def stage_tensors(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    enhanced = ItemTensors.load(
        stored(pipeline, "augmentation").folder / "enhanced_items.safetensors"
    )
    by_token = sorted(pipeline.tokens)
    tensors = dict(enhanced.aligned(by_token).tensors)
    tensors[CATEGORY] = (
        ItemTensors.load(stored(pipeline, "categories").folder / "items.safetensors")
        .aligned(by_token)
        .tensors[CATEGORY]
    )
    tensors[ITEM_EMBEDDING] = (
        ItemTensors.load(stored(pipeline, "backbone").folder / "items.safetensors")
        .aligned(by_token)
        .tensors[ITEM_EMBEDDING]
    )
    tensors["mean_preference"] = torch.from_numpy(user_preferences(pipeline).toarray())
    return tensors


POPULARITY = {
    "loss_type": "BPR",
    "train_neg_sample_args": {"distribution": "popularity", "sample_num": 1},
}
VALIDATED_BY_POPULARITY = {
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "pop20", "test": "full"},
    }
}


@pytest.mark.parametrize(
    ("held_out", "changes"),
    [
        # Validation chooses the epoch of the backbone; with one epoch there is nothing to choose.
        (2, {"epochs": 1}),
        (2, {"epochs": 1} | POPULARITY),
        (1, {"epochs": 4}),
        (1, {"epochs": 4} | POPULARITY),
        (1, {"epochs": 4} | VALIDATED_BY_POPULARITY),
    ],
)
def test_nothing_held_out_enters_any_stage(held_out, changes, tmp_path, settings):
    """Other held-out items, and more of them, at random: every stage's output stays, bit for bit."""
    write_with_other_held_out(tmp_path, held_out)
    one = stage_tensors(pipeline_of(settings | changes, "one"))
    other = stage_tensors(pipeline_of(settings | changes, "other"))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_enhanced_embeddings_line_up_under_another_order_of_ids(tmp_path, settings, caplog):
    users = histories()
    write_histories(tmp_path, "one", users)
    one = pipeline_of(settings, "one")
    file = stored(one, "augmentation").folder / "enhanced_items.safetensors"
    rows = dict(zip(one.tokens, item_vectors(one), strict=True))
    given = settings | {"enhanced_items": str(file)}
    write_histories(tmp_path, "one", users, order=list(reversed(users)))
    other = pipeline_of(given, "one", "TSLRec_GRU4Rec")
    assert other.tokens != one.tokens and sorted(other.tokens) == sorted(one.tokens)
    for token, row in zip(other.tokens, item_vectors(other), strict=True):
        assert torch.equal(row, rows[token]), token
    assert "interactions of the same data set" not in caplog.text
    filtered = given | {"item_inter_num_interval": "[20,inf)"}
    with pytest.raises(ValueError, match="made from other training and validation interactions"):
        item_vectors(pipeline_of(filtered, "one"))
    fewer = pipeline_of(filtered | {"allow_new_data": True}, "one")
    assert 0 < len(fewer.tokens) < len(one.tokens)
    with caplog.at_level("WARNING"):
        enhanced = item_vectors(fewer)
    for token, row in zip(fewer.tokens, enhanced, strict=True):
        assert torch.equal(row, rows[token]), token
    assert "from other training and validation interactions" in caplog.text


def test_a_stored_stage_is_reused_under_another_order_of_ids(tmp_path, settings):
    """The same data in another order is the same data: the prior stages are found by content."""
    users = histories()
    write_histories(tmp_path, "one", users)
    first = pipeline_of(settings, "one")
    stored(first, "augmentation")
    write_histories(tmp_path, "one", users, order=list(reversed(users)))
    again = pipeline_of(settings, "one")
    assert again.tokens != first.tokens
    assert stored(again, "augmentation").reused
    rows = dict(zip(first.tokens, item_vectors(first), strict=True))
    for token, row in zip(again.tokens, item_vectors(again), strict=True):
        assert torch.equal(row, rows[token])


def test_an_enhanced_items_file_that_does_not_fit_is_refused(tmp_path, settings, small_data):
    write_histories(tmp_path, "one", histories())
    one = pipeline_of(settings, "one")
    file = stored(one, "augmentation").folder / "enhanced_items.safetensors"
    given = settings | {"enhanced_items": str(file)}
    with pytest.raises(
        ValueError, match=r"made for the data set \[one\], and this one is \[small\]"
    ):
        item_vectors(pipeline_of(given, small_data))
    users = histories()
    users["u0"][:2] = ["new", "newer"]
    write_histories(tmp_path, "one", users)
    with pytest.raises(ValueError, match="made from other training interactions"):
        item_vectors(pipeline_of(given, "one"))
    given = given | {"allow_new_data": True}
    with pytest.raises(ValueError, match=r"2 of 14 items.*not in the file.*'new"):
        item_vectors(pipeline_of(given, "one"))
    with pytest.raises(ValueError, match="enhanced_items.*another stage"):
        run_experiment(
            "TSLRec_SASRec",
            "one",
            config_dict=settings
            | {"enhanced_items": str(stored(one, "backbone").folder / "items.safetensors")},
        )
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes()[:-5])
    copy.with_suffix(".json").write_text(file.with_suffix(".json").read_text())
    with pytest.raises(ValueError, match="truncated or altered"):
        item_vectors(pipeline_of(settings | {"enhanced_items": str(copy)}, "one"))


def test_who_may_read_the_folder_may_read_its_files(small_data, settings, tmp_path):
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    stored(pipeline_of(settings, small_data), "augmentation")
    modes = {p.stat().st_mode for p in Path("saved/tslrec").rglob("*") if p.is_file()}
    assert modes == {usual}


STAGES_AFTER = {
    "fusion": ("sum", []),
    "enhanced_scale": (0.5, []),
    "sft_epochs": (1, ["fine_tuning", "augmentation"]),
    "llm_pooling": ("mean", ["fine_tuning", "augmentation"]),
    "n_categories": (3, ["categories", "fine_tuning", "augmentation"]),
    "topk": ([5, 10, 20], []),
    "train_window_context": (1, []),
    "learning_rate": (0.01, ["backbone", "categories", "fine_tuning", "augmentation"]),
}


def test_only_what_a_change_concerns_is_made_again(small_data, settings):
    stored(pipeline_of(settings, small_data), "augmentation")
    for key, (value, expected) in STAGES_AFTER.items():
        pipeline = pipeline_of(settings | {key: value}, small_data)
        stored(pipeline, "augmentation")
        assert [stage.name for stage in pipeline.used if not stage.reused] == expected, key


def test_categories_that_are_numbered_otherwise_are_noticed(small_data, settings, monkeypatch):
    first = pipeline_of(settings, small_data)
    stored(first, "augmentation")
    shutil.rmtree(stored(first, "categories").folder)
    again = pipeline_of(settings, small_data)
    again.stage(STAGES["augmentation"]).check_agrees()  # they came out the same
    shutil.rmtree(stored(again, "categories").folder)
    other = pipeline_of(settings | {"tslrec_dir": "other", "seed": 5}, small_data)
    labels = (categories(other).item_categories() + 1) % 4
    monkeypatch.setattr(CategoriesStage, "item_categories", lambda _: labels)
    with pytest.raises(ValueError, match="augmentation-.*made of other item categories.*Remove"):
        pipeline_of(settings, small_data).stage(STAGES["augmentation"]).check_agrees()


def test_a_language_model_is_not_used_with_a_backbone_made_again(small_data, settings, monkeypatch):
    """It was removed, and another machine gave other embeddings under the same settings."""
    first = pipeline_of(settings, small_data)
    stored(first, "fine_tuning")
    shutil.rmtree(stored(first, "backbone").folder)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(BackboneStage, "train", lambda *_: torch.randn(len(first.tokens), 64))
        with pytest.raises(
            ValueError, match=r"fine_tuning-.*made of other item embeddings.*Remove"
        ):
            stored(pipeline_of(settings, small_data), "augmentation")
    shutil.rmtree(stored(first, "fine_tuning").folder)
    with pytest.raises(ValueError, match=r"categories-.*made of other item embeddings.*Remove"):
        stored(pipeline_of(settings, small_data), "augmentation")
    shutil.rmtree(stored(first, "categories").folder)
    stored(pipeline_of(settings, small_data), "augmentation")


def test_partial_results_of_something_else_are_not_gone_on_from(tmp_path, caplog):
    folder = tmp_path / "work" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "of a version that left no note").touch()
    for read in ({"order": 1}, {"order": 2}, {"order": 2, "item_embeddings": "other"}):
        caplog.clear()
        provenance.keep_only_own(folder, read)
        assert not list(folder.iterdir()) and "partial results of other" in caplog.text
        (folder / "checkpoint-3").mkdir()
        provenance.keep_only_own(folder, read)
        assert (folder / "checkpoint-3").is_dir()
    (note,) = (file for file in folder.parent.iterdir() if file.is_file())
    for damage in ("", '{"order": '):
        note.write_text(damage)
        provenance.keep_only_own(folder, {"order": 2})
        assert not list(folder.iterdir())
        (folder / "checkpoint-3").mkdir()


def test_what_is_missing_of_the_stages(small_data, settings):
    def missing(pipeline: Pipeline, *names: str) -> list[str]:
        return [stage.name for stage in pipeline.missing([STAGES[name] for name in names])]

    pipeline = pipeline_of(settings, small_data)
    assert missing(pipeline, "augmentation") == list(STAGES) and missing(pipeline) == []
    stored(pipeline, "categories")
    assert missing(pipeline, "categories", "augmentation") == list(STAGES)[2:]
    stored(pipeline, "augmentation")
    shutil.rmtree(stored(pipeline, "backbone").folder)
    assert missing(pipeline, "augmentation") == []


# For every key of ours a value that is not the default, and the first stage that it changes: those after
# it change, too. None: no stage.
FIRST_CHANGED = {
    "seed": (7, "backbone"),
    "n_categories": (5, "categories"),
    "category_backend": ("faiss", "categories"),
    "llm_quantization": ("int8", "fine_tuning"),
    "llm_instruction": ("predict {n_categories}", "fine_tuning"),
    "llm_response": ("So :", "fine_tuning"),
    "llm_pooling": ("mean", "fine_tuning"),
    "llm_max_history": (3, "fine_tuning"),
    "lora_r": (3, "fine_tuning"),
    "lora_alpha": (3, "fine_tuning"),
    "lora_dropout": (0.5, "fine_tuning"),
    "lora_target_modules": ("q_proj", "fine_tuning"),
    "sft_epochs": (7, "fine_tuning"),
    "sft_learning_rate": (0.5, "fine_tuning"),
    "sft_batch_positions": (7, "fine_tuning"),
    "sft_optimizer": ("adamw_8bit", "fine_tuning"),
    "sft_users": (0.5, "fine_tuning"),
    "sft_valid_ratio": (0.4, "fine_tuning"),
    "sft_stopping_step": (7, "fine_tuning"),
    "sft_next_title": (0.5, "fine_tuning"),
    "llm_trust_remote_code": (True, None),
    "llm_attention": ("eager", None),
    "llm_gradient_checkpointing": (True, "fine_tuning"),
    "enhancement": ("random", None),
    "item_text": ("title", None),  # what reads it: test_text_vectors.py
    "item_text_tokens": (7, None),
    "item_text_missing": ("unknown", None),
    "fusion": ("sum", None),
    "enhanced_dim": (7, None),
    "enhanced_scale": (0.5, None),
    "item_norm": ("l2", None),
    "tslrec_dir": ("elsewhere", None),
}
# Their content counts, or they need texts: by tests of their own. And keys of models without TSLRec's
# stages.
_ELSEWHERE = {"llm", "backbone_checkpoint", "enhanced_items", "item_prompt", "item_slots"}
_PEERS = {
    "max_examples_per_user",
    "e4srec_instruction",
    "e4srec_learning_rate",
    *CANDIDATES.names,
    *CONTROL.names,
    *LLAMAREC.names,
    *DELREC_PROMPTS.names,
    *SOFT_PROMPTS.names,
    *DELREC.names,
    *CODES.names,
    *WRITING.names,
    *P5.names,
    *POD.names,
    *SCORE_TERM.names,
    *SUMMARIES.names,
    *LLM_TRSR.names,
    *TRSR_CONTROL.names,
}


def test_every_key_changes_the_stages_that_depend_on_it_and_no_other(small_data, settings):
    assert FIRST_CHANGED.keys() | _ELSEWHERE | _PEERS == KEYS.keys() | {"seed"}
    write_texts()
    stages, last = list(STAGES), [STAGES["augmentation"]]
    before = pipeline_of(settings, small_data).made_from(last)
    for key, (value, first) in FIRST_CHANGED.items():
        after = pipeline_of(settings | {key: value}, small_data).made_from(last)
        expected = stages[stages.index(first) :] if first else []
        assert [stage for stage in stages if after[stage] != before[stage]] == expected, key


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("n_categories", 31, ValueError, "n_categories: .31. is more than the 30 items"),
        ("llm", "no/such", OSError, "llm:.*no/such"),
        ("llm_attention", "flash_attention_2", ValueError, "llm_attention:.*needs a GPU"),
        ("sft_optimizer", "paged_adamw_8bit", ValueError, "sft_optimizer:.*between a GPU"),
        (
            "llm_instruction",
            "history " * 70,
            ValueError,
            "llm_instruction and llm_response.*no room",
        ),
        ("lora_target_modules", "no_such", ValueError, "lora_target_modules.*no_such"),
    ],
)
def test_errors_come_before_any_training(
    key, value, error, message, small_data, settings, tmp_path
):
    with pytest.raises(error, match=message):
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings | {key: value})
    assert not (tmp_path / "saved" / "tslrec").exists()


def test_users_with_a_single_training_interaction(tmp_path, settings):
    """Leave-one-out leaves such a user one item (3 interactions), one row (2) or nothing (1)."""
    users = histories(n_users=10)
    users |= {"short": ["i1", "i2", "i3"], "shorter": ["i4", "i5"], "shortest": ["i6"]}
    write_histories(tmp_path, "one", users)
    experiment = run_experiment("TSLRec_SASRec", "one", config_dict=settings)
    assert experiment.test_result["hit@10"] >= 0


def test_the_same_seed_gives_the_same_stages_and_another_does_not(small_data, settings):
    tensors = [
        stage_tensors(
            pipeline_of(settings | {"tslrec_dir": f"saved/{run}", "seed": seed}, small_data)
        )
        for run, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    for name in tensors[0]:
        assert torch.equal(tensors[0][name], tensors[1][name]), name
    assert not torch.equal(tensors[0][ENHANCED_EMBEDDING], tensors[2][ENHANCED_EMBEDDING])


def test_a_second_backbone_depends_on_the_order_of_what_is_validated(tmp_path, settings):
    """With a ratio split a later validation row has the earlier one in its history."""
    split = {"eval_args": {"split": {"RS": [0.6, 0.3, 0.1]}, "order": "TO", "group_by": "user"}}
    users = histories()
    write_histories(tmp_path, "one", users)
    before = pipeline_of(settings | split, "one")
    swapped = {
        user: [*items[:-3], items[-2], items[-3], items[-1]] for user, items in users.items()
    }
    write_histories(tmp_path, "one", swapped)
    after = pipeline_of(settings | split, "one")
    assert before.data_fingerprint["training"] == after.data_fingerprint["training"]
    assert before.data_fingerprint["validation"] != after.data_fingerprint["validation"]


def test_several_processes_do_not_make_stages(small_data, settings):
    pipeline = pipeline_of(settings, small_data)
    pipeline.config["single_spec"] = False
    with pytest.raises(ValueError, match="nproc.*augmentation is not there"):
        stored(pipeline, "augmentation")
    pipeline.config["single_spec"] = True
    made = stored(pipeline, "augmentation")
    again = pipeline_of(settings, small_data)
    again.config["single_spec"] = False
    assert stored(again, "augmentation").folder == made.folder
