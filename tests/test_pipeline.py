"""What enters the stages, what they depend on, and what they refuse."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_atomic
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_tslrec.augmentation.enhanced_embeddings import ENHANCED_EMBEDDING
from recbole_tslrec.item_tensors import ItemTensors
from recbole_tslrec.model.specifications import BACKBONES
from recbole_tslrec.pipeline import CATEGORY, ITEM_EMBEDDING, Pipeline
from recbole_tslrec.quick_start import run_experiment
from recbole_tslrec.settings import SETTINGS


def pipeline_of(settings: dict, dataset: str, model: str = "TSLRec_SASRec") -> Pipeline:
    config = Config(model, dataset, config_dict=settings)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    backbone = BACKBONES[model.partition("_")[2]]
    return Pipeline(config, train_data, valid_data, backbone, show_progress=False)


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


def stage_tensors(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    enhanced = ItemTensors.load(pipeline.augmentation().folder / "enhanced_items.safetensors")
    by_token = sorted(pipeline.tokens)
    tensors = dict(enhanced.aligned(by_token).tensors)
    tensors[CATEGORY] = (
        ItemTensors.load(pipeline.categories().folder / "items.safetensors")
        .aligned(by_token)
        .tensors[CATEGORY]
    )
    tensors[ITEM_EMBEDDING] = (
        ItemTensors.load(pipeline.backbone().folder / "items.safetensors")
        .aligned(by_token)
        .tensors[ITEM_EMBEDDING]
    )
    tensors["preferences"] = torch.from_numpy(pipeline.preferences().toarray())
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
    users = histories()
    write_histories(tmp_path, "one", users)
    generator = np.random.default_rng(1)
    changed = {
        user: items[:-held_out] + [f"i{item}" for item in generator.integers(0, 12, size=held_out)]
        for user, items in users.items()
    }
    assert changed != users
    write_histories(tmp_path, "other", changed)
    one = stage_tensors(pipeline_of(settings | changes, "one"))
    other = stage_tensors(pipeline_of(settings | changes, "other"))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_enhanced_embeddings_line_up_under_another_order_of_ids(tmp_path, settings, caplog):
    users = histories()
    write_histories(tmp_path, "one", users)
    one = pipeline_of(settings, "one")
    file = one.augmentation().folder / "enhanced_items.safetensors"
    rows = dict(zip(one.tokens, one.enhanced_items(), strict=True))
    given = settings | {"enhanced_items": str(file)}
    write_histories(tmp_path, "one", users, order=list(reversed(users)))
    other = pipeline_of(given, "one", "TSLRec_GRU4Rec")
    assert other.tokens != one.tokens and sorted(other.tokens) == sorted(one.tokens)
    for token, row in zip(other.tokens, other.enhanced_items(), strict=True):
        assert torch.equal(row, rows[token]), token
    assert "interactions of the same data set" not in caplog.text
    fewer = pipeline_of(given | {"item_inter_num_interval": "[20,inf)"}, "one")
    assert 0 < len(fewer.tokens) < len(one.tokens)
    with caplog.at_level("WARNING"):
        enhanced = fewer.enhanced_items()
    for token, row in zip(fewer.tokens, enhanced, strict=True):
        assert torch.equal(row, rows[token]), token
    assert "from other training and validation interactions" in caplog.text


def test_a_stored_stage_is_reused_under_another_order_of_ids(tmp_path, settings):
    """The same data in another order is the same data: the prior stages are found by content."""
    users = histories()
    write_histories(tmp_path, "one", users)
    first = pipeline_of(settings, "one")
    first.augmentation()
    write_histories(tmp_path, "one", users, order=list(reversed(users)))
    again = pipeline_of(settings, "one")
    assert again.tokens != first.tokens
    assert again.augmentation().reused
    rows = dict(zip(first.tokens, first.enhanced_items(), strict=True))
    for token, row in zip(again.tokens, again.enhanced_items(), strict=True):
        assert torch.equal(row, rows[token])


def test_an_enhanced_items_file_that_does_not_fit_is_refused(tmp_path, settings, small_data):
    write_histories(tmp_path, "one", histories())
    one = pipeline_of(settings, "one")
    file = one.augmentation().folder / "enhanced_items.safetensors"
    given = settings | {"enhanced_items": str(file)}
    with pytest.raises(
        ValueError, match=r"made for the data set \[one\], and this one is \[small\]"
    ):
        pipeline_of(given, small_data).enhanced_items()
    users = histories()
    users["u0"][:2] = ["new", "newer"]
    write_histories(tmp_path, "one", users)
    with pytest.raises(ValueError, match=r"2 of 14 items.*not in the file.*'new"):
        pipeline_of(given, "one").enhanced_items()
    with pytest.raises(ValueError, match="enhanced_items.*another stage"):
        run_experiment(
            "TSLRec_SASRec",
            "one",
            config_dict=settings
            | {"enhanced_items": str(one.backbone().folder / "items.safetensors")},
        )
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes()[:-5])
    copy.with_suffix(".json").write_text(file.with_suffix(".json").read_text())
    with pytest.raises(ValueError, match="truncated or altered"):
        pipeline_of(settings | {"enhanced_items": str(copy)}, "one").enhanced_items()


def test_who_may_read_the_folder_may_read_its_files(small_data, settings, tmp_path):
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    pipeline_of(settings, small_data).augmentation()
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
    pipeline_of(settings, small_data).augmentation()
    for key, (value, expected) in STAGES_AFTER.items():
        pipeline = pipeline_of(settings | {key: value}, small_data)
        pipeline.augmentation()
        assert [stage.name for stage in pipeline.stages if not stage.reused] == expected, key


def test_categories_that_are_numbered_otherwise_are_noticed(small_data, settings):
    first = pipeline_of(settings, small_data)
    first.augmentation()
    shutil.rmtree(first.categories().folder)
    again = pipeline_of(settings, small_data)
    again.check_stages_agree()  # they came out the same
    shutil.rmtree(again.categories().folder)
    other = pipeline_of(settings | {"tslrec_dir": "other", "seed": 5}, small_data)
    labels = (other.item_categories() + 1) % 4
    again = pipeline_of(settings, small_data)
    again.item_categories = lambda: labels
    with pytest.raises(ValueError, match="augmentation-.*made of other item categories.*Remove"):
        again.check_stages_agree()


def test_a_language_model_is_not_used_with_a_backbone_made_again(small_data, settings):
    """It was removed, and another machine gave other embeddings under the same settings."""
    first = pipeline_of(settings, small_data)
    first.fine_tuning()
    folder = first.backbone().folder
    shutil.rmtree(folder)
    again = pipeline_of(settings, small_data)
    again._train_backbone = lambda _: torch.randn(len(again.tokens), 64)
    with pytest.raises(ValueError, match=r"fine_tuning-.*made of other item embeddings.*Remove"):
        again.augmentation()
    shutil.rmtree(first.fine_tuning().folder)
    with pytest.raises(ValueError, match=r"categories-.*made of other item embeddings.*Remove"):
        pipeline_of(settings, small_data).augmentation()
    shutil.rmtree(first.categories().folder)
    pipeline_of(settings, small_data).augmentation()


def test_checkpoints_of_other_embeddings_are_not_gone_on_from(
    small_data, settings, tmp_path, caplog
):
    pipeline = pipeline_of(settings, small_data)
    folder = tmp_path / "work" / "checkpoints"
    folder.mkdir(parents=True)
    changes = (
        (pipeline, {"order": 2}),
        (pipeline_of(settings | {"seed": 5}, small_data), {"order": 2}),
    )
    (folder / "of a version that left no note").touch()
    for other, read in ((pipeline, {"order": 1}), *changes):
        caplog.clear()
        other._keep_only_own(folder, read)
        assert not list(folder.iterdir()) and "partial results of other" in caplog.text
        (folder / "checkpoint-3").mkdir()
        other._keep_only_own(folder, read)
        assert (folder / "checkpoint-3").is_dir()
    (note,) = (file for file in folder.parent.iterdir() if file.is_file())
    for damage in ("", '{"order": '):
        note.write_text(damage)
        pipeline._keep_only_own(folder, {"order": 2})
        assert not list(folder.iterdir())
        (folder / "checkpoint-3").mkdir()


def test_what_is_missing_of_the_stages(small_data, settings):
    stages = ["backbone", "categories", "fine_tuning", "augmentation"]
    pipeline = pipeline_of(settings, small_data)
    assert pipeline.missing(stages) == stages and pipeline.missing([]) == []
    pipeline.categories()
    assert pipeline.missing(stages) == stages[2:]
    pipeline.augmentation()
    shutil.rmtree(pipeline.backbone().folder)
    assert pipeline.missing(stages) == []


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
    "sft_valid_ratio": (0.4, "fine_tuning"),
    "sft_stopping_step": (7, "fine_tuning"),
    "llm_trust_remote_code": (True, None),
    "llm_attention": ("eager", None),
    "llm_gradient_checkpointing": (True, None),
    "enhancement": ("random", None),
    "fusion": ("sum", None),
    "enhanced_dim": (7, None),
    "enhanced_scale": (0.5, None),
    "item_norm": ("l2", None),
    "tslrec_dir": ("elsewhere", None),
}
# Their content counts, by tests of their own; and E4SRec's, which has no stage but the backbone.
_ELSEWHERE = {"llm", "backbone_checkpoint", "enhanced_items"}
_PEERS = {
    "max_examples_per_user",
    "examples_per_step",
    "e4srec_instruction",
    "e4srec_learning_rate",
}


def test_every_key_changes_the_stages_that_depend_on_it_and_no_other(small_data, settings):
    assert FIRST_CHANGED.keys() | _ELSEWHERE | _PEERS == SETTINGS.keys() | {"seed"}
    stages = ["backbone", "categories", "fine_tuning", "augmentation"]
    before = pipeline_of(settings, small_data).made_from(stages)
    for key, (value, first) in FIRST_CHANGED.items():
        after = pipeline_of(settings | {key: value}, small_data).made_from(stages)
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
            "the instruction and llm_response.*no room",
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
    assert before._data_fingerprint["training"] == after._data_fingerprint["training"]
    assert before._data_fingerprint["validation"] != after._data_fingerprint["validation"]


def test_several_processes_do_not_make_stages(small_data, settings):
    pipeline = pipeline_of(settings, small_data)
    pipeline.config["single_spec"] = False
    with pytest.raises(ValueError, match="nproc.*augmentation is not there"):
        pipeline.augmentation()
    pipeline.config["single_spec"] = True
    made = pipeline.augmentation()
    again = pipeline_of(settings, small_data)
    again.config["single_spec"] = False
    assert again.augmentation().folder == made.folder
