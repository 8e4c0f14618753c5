import re
import sys
from pathlib import Path

import pytest
import recbole
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config

from recbole_tslrec.commands import run as run_command
from recbole_tslrec.commands.write_keys import names, page, yaml_files
from recbole_tslrec.config import built_in, checks
from recbole_tslrec.config.checks import check_values
from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.config.key import KEYS, Effect, result_values
from recbole_tslrec.config.keys import TRAINING_KEYS
from recbole_tslrec.config.recbole_keys import check_valid_metric
from recbole_tslrec.config.spelling import check_spelling
from recbole_tslrec.recbole_bridge.config_files import properties_folder
from recbole_tslrec.recbole_bridge.paradigm import PARADIGMS, chain, variants


def ours(name: str) -> dict:
    return yaml.safe_load((properties_folder() / f"{name}.yaml").read_text())


def test_the_files_of_keys_are_those_of_the_declarations():
    """`make keys` writes them."""
    for path, text in yaml_files().items():
        assert path.read_text() == text, path
        reader = Config.__new__(Config)  # yaml by itself reads 1e-3 as a text
        reader.yaml_loader = reader._build_yaml_loader()
        defaults = {name: key.default for name, key in TRAINING_KEYS.items()}
        if path.stem != "overall":
            defaults = PARADIGMS[path.stem].defaults()
        assert reader._load_config_files([str(path)]) == defaults
    assert (properties_folder().parent / "docs" / "keys.md").read_text() == page()
    assert built_in.FILE.read_text() == names().as_json() == built_in.built_in().as_json()


def test_a_paradigm_declares_the_keys_that_its_stages_and_rows_read():
    for paradigm in PARADIGMS.values():
        declared = set(paradigm.defaults())
        for row in paradigm.variants:
            read = {*row.keys, *(name for stage in chain(row.stages) for name in stage.keys)}
            assert read <= declared, (paradigm.name, row.name)
    assert set(KEYS) == {name for one in PARADIGMS.values() for name in one.defaults()}


def test_every_key_says_type_and_meaning():
    for file in Path(properties_folder()).rglob("*.yaml"):
        for line in file.read_text().splitlines():
            if re.match(r"\w+:", line) and "defaults" not in line:
                assert re.search(r"#\s*\((str|int|float|bool|list|dict)[^)]*\) \S", line), line


WRONG = [
    ("n_categories", 1, "n_categories: .1. is not a whole number, 2 or larger"),
    ("n_categories", 2.5, "n_categories"),
    ("category_backend", "kmeans", "one of auto, sklearn, faiss"),
    ("llm_quantization", "int4", "one of none, int8, nf4"),
    ("llm_pooling", "first", "one of last, mean"),
    ("llm_max_history", 0, "llm_max_history"),
    (
        "enhancement",
        "none",
        "one of tslrec, mean_preference, backbone_embedding, random, frozen_lm",
    ),
    (
        "fusion",
        "concat",
        "fusion: .'concat'. is not one of gate, sum, alone, start, null_space, none",
    ),
    ("enhanced_scale", float("inf"), "enhanced_scale"),
    ("train_window_context", 2, "train_window_context"),
    ("train_batching", "batch", "one of prefix, sequence"),
    ("sampled_loss", "bce", "sampled_loss: .'bce'. is not one of none, softmax, gbce"),
    ("sampled_negatives", 0, "sampled_negatives"),
    ("gbce_calibration", 1.5, "gbce_calibration"),
    ("train_precision", "float16", "one of float32, bfloat16, auto"),
    ("lora_dropout", 1.0, "lora_dropout"),
    ("sft_learning_rate", 0, "sft_learning_rate"),
    ("sft_valid_ratio", 0.9, "sft_valid_ratio"),
    ("lora_target_modules", [], "lora_target_modules"),
    ("llm", None, "llm"),
]


def test_a_peers_keys_are_checked_and_disturb_no_other_model(small_data, settings):
    wrong = settings | {"max_examples_per_user": 0}
    with pytest.raises(ValueError, match="max_examples_per_user: .0. is not a whole number"):
        Config("E4SRec", small_data, config_dict=wrong)
    with pytest.raises(ValueError, match=r"\[max_example_per_user\].*\[max_examples_per_user\]"):
        Config("E4SRec", small_data, config_dict=settings | {"max_example_per_user": 5})
    config = Config(
        "TSLRec_SASRec", small_data, config_dict=settings | {"max_examples_per_user": 5}
    )
    assert config["sft_learning_rate"] == 1e-3
    assert Config("E4SRec", small_data, config_dict=settings)["e4srec_learning_rate"] == 3e-4


WRONG_FOR_RECBOLE = [
    ("epochs", 0, "epochs: .0. is not a whole number, 1 or larger"),
    ("epochs", "zehn", "epochs: .'zehn'."),
    ("learning_rate", -1e-3, "learning_rate"),
    ("train_batch_size", 0.5, "train_batch_size"),
    ("metrics", ["HR", "NDCG"], "metrics: .HR. is not one of RecBole's metrics, auc, .* is hit"),
    ("valid_metric", "NDGC@10", "valid_metric: .NDGC. is not one of RecBole's metrics, auc"),
    ("topk", [5, "10"], "topk: .'10'. is not a whole number"),
]


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "E4SRec", "FMLPRec"])
@pytest.mark.parametrize(("key", "value", "message"), WRONG_FOR_RECBOLE)
def test_what_would_stop_or_spoil_a_training_is_refused(
    model, key, value, message, small_data, settings
):
    with pytest.raises(ValueError, match=message):
        Config(model, small_data, config_dict=settings | {key: value})


@pytest.mark.parametrize("changes", [{"eval_step": -1}, {"stopping_step": float("inf")}])
def test_what_recbole_takes_is_taken(changes, small_data, settings):
    Config("TSLRec_SASRec", small_data, config_dict=settings | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": "NDCG", "topk": 10},
        {"metrics": ["GAUC"], "valid_metric": "GAUC"},
        {"metrics": ["MRR", "ItemCoverage"], "valid_metric": "itemcoverage@5"},
        {"metrics": ["AUC"], "valid_metric": "auc", "eval_args": {"order": "TO", "mode": "uni10"}},
    ],
)
def test_what_recbole_computes_may_choose_the_epoch(changes, small_data, settings):
    check_valid_metric(Config("TSLRec_SASRec", small_data, config_dict=settings | changes))


@pytest.mark.parametrize("metric", ["NDCG@20", "NDCG", "MRR@10"])
def test_what_it_does_not_compute_may_not(metric, small_data, settings):
    config = Config("TSLRec_SASRec", small_data, config_dict=settings | {"valid_metric": metric})
    message = rf"valid_metric: \[{metric}\] .* are: \[hit@5, hit@10, ndcg@5, ndcg@10\]"
    with pytest.raises(ValueError, match=message):
        check_valid_metric(config)


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_value_out_of_range_is_refused(key, value, message, small_data, settings):
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", small_data, config_dict=settings | {key: value})


@pytest.mark.parametrize(
    ("model", "batching"),
    [
        ("SASRec", "sequence"),
        ("CI_GRU4Rec", "sequence"),
        ("TSLRec_Caser", "trimmed"),
        ("CI_FMLPRec", "prefix"),
    ],
)
def test_auto_batching_is_the_quickest_of_the_backbone(model, batching, small_data, settings):
    changes = {"train_batching": "auto", "train_neg_sample_args": None}
    config = Config(model, small_data, config_dict=settings | changes)
    assert config["train_batching"] == batching


def test_another_loss_is_refused_where_it_has_no_place(small_data, settings):
    negatives = {"distribution": "uniform", "sample_num": 1}
    bpr = {"loss_type": "BPR", "train_neg_sample_args": negatives}
    change = {"sampled_loss": "gbce"}
    with pytest.raises(ValueError, match=r"sampled_loss: .*loss_type is \[BPR\]"):
        Config("TSLRec_SASRec", small_data, config_dict=settings | bpr | change)
    with pytest.raises(ValueError, match=r"sampled_loss: .*\[CORE\] is none"):
        changes = {"train_neg_sample_args": None} | change
        Config("CORE", small_data, config_dict=settings | changes)


def test_precision_is_what_the_device_has(small_data, settings, monkeypatch):
    def precision(asked, **more):
        changes = {"train_precision": asked} | more
        return Config("TSLRec_SASRec", small_data, config_dict=settings | changes)[
            "train_precision"
        ]

    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: True)
    assert [precision(asked) for asked in ("float32", "bfloat16", "auto")] == [
        "float32",
        "bfloat16",
        "bfloat16",
    ]
    with pytest.raises(ValueError, match="train_precision: .auto. and enable_amp: .True. both"):
        precision("auto", enable_amp=True)
    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: False)
    assert precision("auto") == "float32"
    with pytest.raises(ValueError, match=r"train_precision: .bfloat16. .*\[cpu\]. Set .*auto"):
        precision("bfloat16")


@pytest.mark.parametrize("backbone", ["CORE", "BERT4Rec", "FEARec"])
def test_what_is_not_trained_on_products_is_trained_in_float32(
    backbone, small_data, settings, monkeypatch
):
    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: True)
    for model in (backbone, f"TSLRec_{backbone}"):
        auto = {"train_precision": "auto", "train_neg_sample_args": None}
        config = Config(model, small_data, config_dict=settings | auto)
        assert config["train_precision"] == "float32"
        with pytest.raises(
            ValueError, match=r"train_precision: .bfloat16. .*is none. Set .*float32"
        ):
            Config(model, small_data, config_dict=settings | auto | {"train_precision": "bfloat16"})


@pytest.mark.parametrize("model", ["HGN", "RepeatNet", "P5", "Repeat"])
def test_what_trains_no_backbone_is_in_float32(model, small_data, settings, monkeypatch):
    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: True)

    def precision(asked, **more):
        changes = {"train_precision": asked, "train_neg_sample_args": None} | more
        return Config(model, small_data, config_dict=settings | changes)["train_precision"]

    assert precision("auto") == "float32"
    with pytest.raises(ValueError, match=rf"train_precision: .*\[{model}\] is none. Set .*float32"):
        precision("bfloat16")
    if model == "P5":  # of which the codes may be a trained backbone's
        assert precision("auto", item_code="embedding") == "bfloat16"


def test_a_comparison_does_not_give_the_precision_to_rows_without_a_backbone(small_data, settings):
    names = ("P5", "P5-embedding", "POD", "repeat")
    changes = settings | {"train_precision": "bfloat16"}
    read = [name for name in names if "train_precision" in variants()[name].choose(changes)]
    assert read == ["P5-embedding"]


def test_losses_that_stand_aside_are_in_no_fingerprint():
    usual = {name: key.default for name, key in TRAINING_KEYS.items()}
    names = {"sampled_loss", "sampled_negatives", "gbce_calibration", "train_precision"}
    for changes, counted in (
        ({}, set()),
        ({"sampled_negatives": 5, "gbce_calibration": 1.0}, set()),
        ({"train_precision": "bfloat16"}, {"train_precision"}),
        ({"sampled_loss": "softmax"}, {"sampled_loss", "sampled_negatives"}),
        ({"sampled_loss": "gbce"}, names - {"train_precision"}),
    ):
        assert names & training_settings(usual | changes).keys() == counted


# By key, values that are right, as a strategy; everything else is wrong.
words = st.text(min_size=1).filter(str.strip)
RIGHT = {
    "backbone_checkpoint": st.none(),
    "n_categories": st.integers(2),
    "category_backend": st.sampled_from(["auto", "sklearn", "faiss"]),
    "llm": words,
    "llm_trust_remote_code": st.booleans(),
    "llm_quantization": st.sampled_from(["none", "int8", "nf4"]),
    "llm_instruction": words,
    "e4srec_instruction": words,
    "llm_response": words,
    "llm_max_history": st.integers(1),
    "llm_pooling": st.sampled_from(["last", "mean"]),
    "llm_attention": st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
    "llm_gradient_checkpointing": st.booleans(),
    "max_examples_per_user": st.integers(1),
    "lora_r": st.integers(1),
    "lora_alpha": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "lora_dropout": st.just(0) | st.floats(0, 1, exclude_max=True),
    "lora_target_modules": words | st.lists(words, min_size=1),
    "sft_epochs": st.integers(1),
    "e4srec_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "sft_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "sft_batch_positions": st.integers(1),
    "sft_optimizer": st.sampled_from(["adamw_torch", "adamw_8bit", "paged_adamw_8bit"]),
    "sft_users": st.floats(0, 1, exclude_min=True),
    "sft_valid_ratio": st.just(0) | st.floats(0, 0.5),
    "sft_next_title": st.just(0) | st.floats(0, allow_infinity=False),
    "sft_stopping_step": st.integers(1),
    "enhancement": st.just("tslrec")
    | st.sampled_from(["mean_preference", "backbone_embedding", "random", "frozen_lm"])
    | st.sampled_from(["text", "tfidf", "shuffled_text", "gaussian_text"])
    | st.sampled_from(["tuned_text", "shuffled_tuned_text"]),
    "enhanced_items": st.none(),
    "fusion": st.sampled_from(["gate", "sum", "alone", "start", "null_space", "none"]),
    "score_term": st.sampled_from(["none", "after", "during"]),
    "score_weight": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "score_decay": st.just(1) | st.floats(0, 1, exclude_min=True),
    "score_map": st.sampled_from(["none", "contrastive"]),
    "enhanced_dim": st.integers(1),
    "enhanced_scale": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "item_norm": st.sampled_from(["none", "l2"]),
    "item_text": st.none() | words | st.lists(words, min_size=1),
    "item_text_tokens": st.integers(1),
    "item_text_missing": words,
    "item_prompt": st.sampled_from(["slot", "text", "both"]),
    "item_slots": st.sampled_from(["embedding", "text", "both"]),
    "n_candidates": st.integers(1),
    "candidates": st.sampled_from(["all", "unseen"]),
    "rerank_control": st.sampled_from(["none", "retriever", "shuffled"]),
    "llamarec_instruction": words,
    "llamarec_items": st.sampled_from(["text", "slots"]),
    "llamarec_max_history": st.integers(1),
    "llamarec_head": st.sampled_from(["letters", "linear"]),
    "llamarec_loss": st.sampled_from(["letters", "vocabulary"]),
    "llamarec_negatives": st.sampled_from(["random", "retrieved"]),
    "llamarec_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "delrec_instruction": words,
    "delrec_items": st.sampled_from(["text", "slots"]),
    "delrec_max_history": st.integers(1),
    "delrec_verbalizer": st.sampled_from(["letters", "title"]),
    "delrec_soft_vectors": st.integers(1),
    "delrec_predictions": st.integers(2),
    "delrec_soft_epochs": st.integers(1),
    "delrec_soft_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "delrec_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "delrec_soft_prompts": st.sampled_from(["trained", "random"]),
    "trsr_summary": st.sampled_from(["hierarchical", "recurrent", "none"]),
    "trsr_block_items": st.integers(1),
    "trsr_blocks": st.integers(1),
    "trsr_summary_tokens": st.integers(1),
    "trsr_summarizer": st.none() | words,
    "trsr_summary_instruction": words,
    "trsr_merge_instruction": words,
    "trsr_update_instruction": words,
    "trsr_instruction": words,
    "trsr_instruction_alone": words,
    "trsr_recent_items": st.integers(1),
    "trsr_loss": st.sampled_from(["answer", "text"]),
    "trsr_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "trsr_control": st.sampled_from(["none", "shuffled"]),
    "item_code": st.sampled_from(["collaborative", "sequential", "random"])
    | st.sampled_from(["independent", "embedding", "file_order"]),
    "code_clusters": st.integers(2),
    "code_leaf_items": st.integers(1),
    "code_max_history": st.integers(1),
    "code_score": st.sampled_from(["sum", "mean"]),
    "p5_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "pod_tasks": st.sampled_from([["sequential"], ["sequential", "top_n"]]),
    "pod_vectors": st.integers(0),
    "pod_candidates": st.integers(2),
    "pod_learning_rate": st.integers(1) | st.floats(0, 1e9, exclude_min=True),
    "tslrec_dir": words,
}
# By what is expected, values that are always wrong.
NO_NUMBER = st.sampled_from(["1", "", "1e-3", None, True, False, [], [1], {}, float("nan")])
NOT_FINITE = st.sampled_from([float("inf"), float("-inf")])
NO_TEXT = st.sampled_from(["", "  ", 1, 0.5, True, False, [], {}, ["a"]])


def wrong_values(key: str):
    expected = KEYS[key].values.expected
    if expected == "True or False":
        return st.sampled_from([None, 0, 1, "True", "False", "", [], 0.0])
    if expected == "a whole number, 0 or larger":
        return NO_NUMBER | NOT_FINITE | st.integers(max_value=-1) | st.floats()
    if expected.startswith("a whole number"):
        return NO_NUMBER | NOT_FINITE | st.integers(max_value=0) | st.floats()
    if expected.startswith("a number"):
        return NO_NUMBER | NOT_FINITE | st.floats(max_value=0, exclude_max=True)
    if expected.startswith("one of"):
        no_word = st.sampled_from([None, 0, 1, True, "", " ", [], {}])
        return no_word | st.text().map(lambda text: text + "?")
    if expected == "a text or ~":
        return NO_TEXT
    if expected == "a text":
        return NO_TEXT | st.none()
    if key == "pod_tasks":
        no_tasks = st.sampled_from(["", [], ["top_n"], ["top_n", "sequential"], None, 1, True])
        return no_tasks | st.just(["sequential", "sequential"])
    no_names = st.sampled_from(["", [], [""], [1], ["a", None], 1, True, {"a": 1}])
    assert key in ("lora_target_modules", "item_text")
    return no_names | st.none() if key == "lora_target_modules" else no_names


def test_every_key_has_its_right_values():
    assert set(RIGHT) == set(KEYS)


@pytest.mark.parametrize("key", list(KEYS))
@given(data=st.data())
def test_right_values_pass(key, data):
    check_values(right_everywhere() | {key: data.draw(RIGHT[key])})


@pytest.mark.parametrize("key", list(KEYS))
@given(data=st.data())
def test_no_wrong_value_passes_and_the_message_names_key_and_value(key, data):
    value = data.draw(wrong_values(key))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{key}: [{value!r}] is not ')}"):
        check_values(right_everywhere() | {key: value})


def right_everywhere() -> dict:
    return {name: key.default for name, key in KEYS.items()}


def test_a_file_that_is_not_there_is_refused(small_data, settings):
    for key in ("backbone_checkpoint", "enhanced_items"):
        for name in ("nowhere", "nowhere" * 500):
            with pytest.raises(FileNotFoundError, match=f"{key}.*nowhere"):
                Config("TSLRec_SASRec", small_data, config_dict=settings | {key: name})


def test_a_control_and_a_given_file_contradict_each_other(small_data, settings):
    given_both = settings | {"enhanced_items": "some", "enhancement": "random"}
    with pytest.raises(ValueError, match="enhanced_items.*random"):
        Config("TSLRec_SASRec", small_data, config_dict=given_both)


def test_a_second_equals_sign_on_the_command_line_is_refused(small_data, settings, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", "--enhanced_items=/data/lr=1/x.safetensors"])
    with pytest.raises(ValueError, match="enhanced_items.*second '='.*yaml"):
        Config("TSLRec_SASRec", small_data, config_dict=settings)


@pytest.mark.parametrize("wrong", [["--epochs", "1"], ["--datasets=mine"]])
def test_run_refuses_what_recbole_would_leave_unread(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_recbole_tslrec.py", "--model=SASRec", *wrong])
    with pytest.raises(SystemExit):
        run_command.main()
    assert wrong[0].split("=")[0] in capsys.readouterr().err


def test_no_key_of_recboles_is_taken_for_a_misspelling():
    """One yaml may serve several backbones, and so hold keys that some of them do not have."""
    folder = Path(recbole.__file__).parent / "properties"
    keys = {
        key
        for kind in ("model", "dataset", "quick_start_config")
        for file in (folder / kind).glob("*.yaml")
        for key in yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    }
    assert {"attn_dropout_prob", "load_col"} <= keys
    check_spelling(dict.fromkeys(keys), {})


def test_a_misspelt_key_names_the_right_one(small_data, settings):
    with pytest.raises(ValueError, match=r"n_category.*\[n_categories\]"):
        Config("TSLRec_SASRec", small_data, config_dict=settings | {"n_category": 20})
    Config("TSLRec_SASRec", small_data, config_dict=settings | {"my_own_note": 20})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("hiddeen_act", "hidden_act"),  # the backbone's own yaml
        ("n__heads", "n_heads"),
        ("inner_siez", "inner_size"),
        ("metrisc", "metrics"),
        ("train-batch-size", "train_batch_size"),
        ("LLM_INSTRUCTION", "llm_instruction"),
        ("Max_Item_List_Length", "MAX_ITEM_LIST_LENGTH"),
        ("train_batching ", "train_batching"),
        ("encodings", "encoding"),
    ],
)
def test_another_spelling_of_a_known_key_is_refused(wrong, meant, small_data, settings):
    with pytest.raises(ValueError, match=rf"\[{wrong}\]. Did you mean \[{meant}\]"):
        Config("TSLRec_SASRec", small_data, config_dict=settings | {wrong: 1})


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "SASRec", "BPR"])
def test_a_key_that_is_no_text_is_refused(model, small_data, settings):
    for key in (1, True):  # as yaml reads `1:` and `on:`
        with pytest.raises(ValueError, match=rf"no key \[{key}\]"):
            Config(model, small_data, config_dict=settings | {key: 2})


BROKEN_YAML = [b"", b"abc", b"- 1", b"epochs: [", b"\tepochs: 1", b"epochs:1", b"? [a]\n: 2"]
BROKEN_YAML += [b"\xff\xfe", b"epochs: !!python/object:os.system {}", b"epochs: *x", b"a: 1\0"]
BROKEN_YAML += [b"---\na: 1\n---\na: 2\n", b"[" * 2000, "epochs: 1\n".encode("utf-16")]


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
@pytest.mark.parametrize("content", BROKEN_YAML, ids=lambda content: content[:20])
def test_a_file_of_keys_that_is_none_is_named(model, content, small_data):
    Path("mine.yaml").write_bytes(content)
    message = r"^config_files: \[mine.yaml\] is not 'key: value' lines: [^\n]+$"
    with pytest.raises(ValueError, match=message):
        Config(model, small_data, ["mine.yaml"])


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec", "CI_Caser", "FMLPRec"])
def test_ce_with_negatives_is_refused(model, small_data, settings):
    negatives = {"distribution": "uniform", "sample_num": 1}
    with pytest.raises(ValueError, match="train_neg_sample_args.*CE"):
        Config(
            model,
            small_data,
            config_dict=settings | {"loss_type": "CE", "train_neg_sample_args": negatives},
        )


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "CI_GRU4Rec", "FMLPRec"])
def test_bpr_without_negatives_is_refused_and_gets_them_by_default(model, small_data, settings):
    config = Config(model, small_data, config_dict=settings | {"loss_type": "BPR"})
    assert config["train_neg_sample_args"]["distribution"] == "uniform"
    with pytest.raises(ValueError, match="loss_type.*BPR.*train_neg_sample_args"):
        Config(
            model,
            small_data,
            config_dict=settings | {"loss_type": "BPR", "train_neg_sample_args": None},
        )
    Path("none.yaml").write_text("train_neg_sample_args: None\n")  # a text, in yaml
    with pytest.raises(ValueError, match="loss_type.*BPR"):
        Config(model, small_data, ["none.yaml"], config_dict=settings | {"loss_type": "BPR"})


@given(st.sampled_from(sorted(KEYS)))
def test_a_key_enters_the_fingerprints_of_its_readers_and_no_other(key):
    values = dict.fromkeys(KEYS, "same")
    for stage in {stage for row in variants().values() for stage in chain(row.stages)}:
        before = result_values(values, stage.keys)
        after = result_values(values | {key: "different"}, stage.keys)
        read = key in stage.keys and KEYS[key].effect is Effect.VALUE
        assert (before != after) == read
    assert training_settings(values) == training_settings(values | {key: "different"})


def test_the_backbone_depends_on_recboles_keys_but_not_on_where_things_lie():
    assert training_settings({"learning_rate": 1}) != training_settings({"learning_rate": 2})
    assert training_settings({"checkpoint_dir": "a"}) == training_settings({"checkpoint_dir": "b"})


def test_workers_count_where_they_draw(small_data, settings):
    def trained(**keys):
        config = Config("SASRec", small_data, config_dict=settings | keys)
        return training_settings(config.final_config_dict)

    whole = {"train_neg_sample_args": None}
    sampled = whole | {"eval_args": {"order": "TO", "mode": {"valid": "uni5", "test": "full"}}}
    for keys, counts in (({"loss_type": "BPR"}, True), (sampled, True), (whole, False)):
        assert (trained(**keys, worker=0) != trained(**keys, worker=1)) is counts, keys
        for workers in (0, 1, 2):  # two share the batches out
            some, other = (trained(**keys, worker=workers, eval_batch_size=n) for n in (9, 4096))
            assert (some != other) is (counts and workers == 2), (keys, workers)


def test_other_models_of_recbole_train_on_prefixes(small_data, settings):
    keys = settings | {"train_neg_sample_args": None}
    for value, message in (
        ("sequence", r"not for \[CORE\], which takes prefix"),
        ("sequnce", "is not one of prefix"),
    ):
        with pytest.raises(ValueError, match=rf"train_batching: .*{message}"):
            Config("CORE", small_data, config_dict=keys | {"train_batching": value})
    auto = Config("CORE", small_data, config_dict=keys | {"train_batching": "auto"})
    assert auto["train_batching"] == "prefix"
