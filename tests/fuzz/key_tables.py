"""The keys that are tried: all of ours, and those of RecBole's that our backbones read."""

from __future__ import annotations

import codecs
import math
from typing import Any

from fuzz.key_values import Key, anything, boolean, folder, number, some, text, whole

_RERANKER = "LlamaRec_SASRec"
_DELREC = "DELRec_SASRec"
_SUMMARISER = "LLMTRSR_SASRec"
_LM = "TSLRec_SASRec"
_FILE = ["no.pth", "data", "no.safetensors"]
_LEAVE_TWO = {"LS": "valid_and_test"}
_COLUMNS = {"inter": ["user_id", "item_id", "timestamp"]}
_INTERVALS = [None, "[0,inf)", "[0,inf) ", "[5,10]", "(2,inf)", "[0,3);(5,inf)", [5, 10]]
_INTERVALS += ["5", "[a,b]", "[1000,inf)", "]5,6[", "[10,5]", "[", 5]


def _judge_topk(value: Any) -> bool | None:
    cutoffs = [value] if isinstance(value, int) else value
    if not isinstance(cutoffs, list) or not cutoffs:  # RecBole takes no tuple
        return False
    for k in cutoffs:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 30:  # there are 30 items
            return False
    return True if 10 in cutoffs else None  # which valid_metric is of


def _judge_heads(value: Any) -> bool | None:
    if isinstance(value, float) and value in (1, 2, 4, 8, 16):
        return None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and value in (1, 2, 4, 8, 16)  # hidden_size is 16


def _judge_eval_step(value: Any) -> bool | None:
    """Any whole number: 0 or less is never."""
    if isinstance(value, float) and value.is_integer():
        return None
    return isinstance(value, int) and not isinstance(value, bool)


def _judge_patience(value: Any) -> bool | None:
    """RecBole compares with it: infinity is never, and one epoch and a half is two."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        return False
    return True if isinstance(value, int) else None


def _judge_encoding(value: Any) -> bool | None:
    """Whatever Python decodes with may read the file, under any spelling of its name."""
    if value in (None, "utf-8", "latin-1", "ascii"):
        return True
    try:
        return None if isinstance(value, str) and codecs.lookup(value) else False
    except (LookupError, ValueError):
        return False


def _judge_interval(value: Any) -> bool | None:
    """Intervals, of which RecBole reads the text: the list [5, 10] is one, too."""
    if value in (None, "[0,inf)"):
        return True
    parts = [part.strip() for part in str(value).split(";")]
    try:
        ends = [[float(end) for end in part[1:-1].split(",")] for part in parts]
    except ValueError:
        return False
    closed = all(part[:1] in ("[", "(") and part[-1:] in ("]", ")") for part in parts)
    return None if closed and all(len(two) == 2 and two[0] <= two[1] for two in ends) else False


def _judge_repeatable(value: Any) -> bool | None:
    return value is True or (None if value else False)  # RecBole asks for what counts as true


def _judge_columns(value: Any) -> bool | None:
    """None, a column or several; which there are is looked at where texts are read."""
    names = value if isinstance(value, (list, tuple)) else [value]
    return bool(names) and (value is None or all(isinstance(name, str) and name for name in names))


OURS: dict[str, Key] = {
    "backbone_checkpoint": some([None], wrong=_FILE, model=_LM),
    "n_categories": whole(2, 30, "CI_SASRec", above=False),  # there are 30 items
    "category_backend": some(["auto", "sklearn"], ["faiss"], model="CI_SASRec"),
    "llm": some([], ["embedded"], ["no/such/folder", "data", "/", ".", "../llm/"], _LM),
    "llm_trust_remote_code": boolean(_LM, true=None),
    "llm_quantization": some(["none"], ["int8", "nf4"], model=_LM),
    "llm_attention": some(["sdpa", "eager"], ["flash_attention_2"], model=_LM),
    "llm_instruction": text(),
    "llm_response": text(),
    "llm_max_history": whole(1, model=_LM),
    "llm_gradient_checkpointing": boolean(_LM),
    "llm_pooling": some(["last", "mean"], model=_LM),
    "lora_r": whole(1, 32, _LM, above=False),  # the narrowest layer's width
    "lora_alpha": number(beside=[0], model=_LM),
    "lora_dropout": number(high=1, beside=[1], model=_LM),
    "lora_target_modules": some(
        ["all-linear", "q_proj", ["q_proj", "v_proj"], ("k_proj",)],
        [["q_proj", "no_such"]],
        ["no_such", ["q_proj", 1], "layers"],
        _LM,
    ),
    "sft_epochs": whole(1, model=_LM),
    "sft_learning_rate": number(beside=[0], model=_LM),
    "sft_batch_positions": whole(1, 10**5, model=_LM),
    "sft_optimizer": some(["adamw_torch"], ["adamw_8bit", "paged_adamw_8bit"], model=_LM),
    "sft_users": number(high=1, beside=[0], model=_LM),
    "sft_valid_ratio": number(high=0.5, model=_LM),
    "sft_stopping_step": whole(1, model=_LM),
    "sft_next_title": some([0.0, 0], [0.5], model=_LM),  # items have no words in the prompt
    "item_text": Key(_LM, [None, "title", ["title"], "", [], [1], 1], _judge_columns),
    "item_text_tokens": whole(1, model=_LM),
    "item_text_missing": text(_LM),
    "item_prompt": some(["slot"], ["text", "both"], model=_LM),
    "item_slots": some(["embedding"], ["text", "both"], model=_LM),
    "enhancement": some(
        ["tslrec", "random"], ["mean_preference", "backbone_embedding", "frozen_lm"], model=_LM
    ),
    "enhanced_items": some([None], wrong=_FILE, model=_LM),
    "fusion": some(["gate", "sum", "alone", "start", "null_space"], ["none"], model=_LM),
    "score_term": some(["none", "after", "during"], model=_LM),
    "score_weight": number(beside=[0], model=_LM),
    "score_decay": number(high=1, beside=[0], model=_LM),
    "score_map": some(["none", "contrastive"], model=_LM),
    "enhanced_dim": whole(1, model=_LM),
    "enhanced_scale": number(beside=[0], model=_LM),
    "item_norm": some(["none", "l2"], model="CI_SASRec"),
    "max_examples_per_user": whole(1, model="E4SRec"),
    "e4srec_instruction": text("E4SRec"),
    "e4srec_learning_rate": number(beside=[0], model="E4SRec"),
    "n_candidates": whole(1, 7, _RERANKER),
    "candidates": some(["all", "unseen"], model=_RERANKER),
    "rerank_control": some(["none", "retriever", "shuffled"], model=_RERANKER),
    "llamarec_instruction": text(_RERANKER),
    "llamarec_items": some(["slots"], ["text"], model=_RERANKER),
    "llamarec_max_history": whole(1, model=_RERANKER),
    "llamarec_head": some(["linear"], ["letters"], model=_RERANKER),
    "llamarec_loss": some(["letters"], ["vocabulary"], model=_RERANKER),
    "llamarec_negatives": some(["random", "retrieved"], model=_RERANKER),
    "llamarec_learning_rate": number(beside=[0], model=_RERANKER),
    "item_code": some(
        ["collaborative", "sequential", "random", "independent", "file_order"],
        ["embedding"],
        model="P5",
    ),
    "code_clusters": whole(2, model="P5"),
    "code_leaf_items": whole(1, model="P5"),
    "code_max_history": whole(1, model="P5"),
    "code_score": some(["sum", "mean"], model="P5"),
    "p5_learning_rate": number(beside=[0], model="P5"),
    "pod_tasks": some(
        [["sequential"], ["sequential", "top_n"]],
        wrong=["sequential", ["top_n"], ["top_n", "sequential"], ["explanation"]],
        model="POD",
    ),
    "pod_vectors": whole(0, 10**5, model="POD"),
    "pod_candidates": whole(2, 10**5, model="POD"),
    "pod_learning_rate": number(beside=[0], model="POD"),
    "delrec_instruction": text(_DELREC),
    "delrec_items": some(["slots"], ["text"], model=_DELREC),
    "delrec_max_history": whole(1, model=_DELREC),
    "delrec_verbalizer": some(["letters"], ["title"], model=_DELREC),
    "delrec_soft_vectors": whole(1, 50, _DELREC),
    "delrec_predictions": whole(2, 5, _DELREC, above=False),
    "delrec_soft_epochs": whole(1, model=_DELREC),
    "delrec_soft_learning_rate": number(beside=[0], model=_DELREC),
    "delrec_learning_rate": number(beside=[0], model=_DELREC),
    "delrec_soft_prompts": some(["trained", "random"], model=_DELREC),
    "trsr_summary": some(["hierarchical", "recurrent", "none"], model=_SUMMARISER),
    "trsr_block_items": whole(1, model=_SUMMARISER),
    "trsr_blocks": whole(1, model=_SUMMARISER),
    "trsr_summary_tokens": whole(1, 8, _SUMMARISER),
    "trsr_summarizer": some([None], ["no/such"], model=_SUMMARISER),
    "trsr_summary_instruction": text(_SUMMARISER),
    "trsr_merge_instruction": text(_SUMMARISER),
    "trsr_update_instruction": text(_SUMMARISER),
    "trsr_instruction": text(_SUMMARISER),
    "trsr_instruction_alone": text(_SUMMARISER),
    "trsr_recent_items": whole(1, model=_SUMMARISER),
    "trsr_loss": some(["answer", "text"], model=_SUMMARISER),
    "trsr_learning_rate": number(beside=[0], model=_SUMMARISER),
    "trsr_control": some(["none", "shuffled"], model=_SUMMARISER),
    "tslrec_dir": folder(_LM),
    "train_batching": some(["prefix", "sequence", "auto"], wrong=["trimmed"]),
    "train_window_context": number(high=1),
    "valid_protocol": some(["ranked", "masked", "novel"]),
    "sampled_loss": some(["none"], ["softmax", "gbce"]),  # there are fewer items than are drawn
    "sampled_negatives": whole(1),
    "gbce_calibration": number(high=1),
    "train_precision": some(["float32", "auto"]),
    "allow_new_data": boolean(true=None),
}
_TRAINING: dict[str, Key] = {
    "epochs": whole(1),
    "train_batch_size": whole(1),
    "eval_batch_size": whole(1),
    "eval_step": Key("Norm_SASRec", [-1, 0, 1, 3, 1.0, "1", -(10**12)], _judge_eval_step),
    "stopping_step": Key("Norm_SASRec", [0, 1, 0.5, math.inf, -1, True, "1"], _judge_patience),
    "learning_rate": number(beside=[0]),
    "learner": some(["adam", "sgd", "adagrad", "rmsprop"], ["sparse_adam", "Adam", "ADAM"]),
    "weight_decay": number(),
    "clip_grad_norm": some(
        [None], [{"max_norm": 1}, False, {}], [{"max": 1}, {"max_norm": "a"}, {"max_norm": -1}, 5]
    ),
    "loss_type": some(["CE", "BPR"]),
    "train_neg_sample_args": some(
        [None], ["None"], [{"distribution": "uniform", "sample_num": 1}, "uniform"]
    ),
    "seed": whole(0, 2**32 - 1, above=False),
    "reproducibility": boolean(),
    "shuffle": boolean(),
    "use_gpu": boolean(),
    "enable_amp": boolean(true=None),
    "gpu_id": anything("", "0", "7", 0, "abc", "0,1"),
    "state": anything("INFO", "DEBUG", "info", "x"),
    "loss_decimal_place": anything(4, 1, -1, 10**12),
    "show_progress": boolean(seen=True),
    "checkpoint_dir": folder(),
}
_EVALUATION: dict[str, Key] = {
    "metrics": some(
        ["NDCG", ["NDCG"], ["NDCG", "Hit"], ["MRR", "ndcg"]],
        [["GAUC"]],
        [["hits"], "HR", ["NDCG", "AUC"], ["Recall"]],
    ),
    "topk": Key(
        "Norm_SASRec",
        [10, [5, 10], [10, 10], [0], -1, [10, 31], [10, 10**6], "10", [10.0], (5, 10)],
        _judge_topk,
    ),
    "valid_metric": some(
        ["NDCG@10", "ndcg@5", "Hit@10"], ["NDCG@10 "], ["MRR@10", "NDCG@20", "NDCG"]
    ),
    "metric_decimal_place": whole(0, 20),
    "repeatable": Key("Norm_SASRec", [True, False, 0, "no"], _judge_repeatable),
    "eval_args": some(
        [{"split": _LEAVE_TWO, "order": "TO", "mode": "full"}],
        [
            {},
            {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user"},
            {"split": {"LS": "valid_only"}, "order": "TO"},
            {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user"},
        ],
        [
            {"split": _LEAVE_TWO, "order": "RO"},
            {"split": _LEAVE_TWO, "order": "XX"},
            {"split": {"RS": [8, 1]}},
            {"split": {"XX": 1}, "order": "TO"},
            {"split": {"LS": "all"}, "order": "TO"},
            {"split": {"RS": [0, 0, 0]}, "order": "TO"},
            {"split": {"RS": [-1, 1, 1]}, "order": "TO"},
            {"split": _LEAVE_TWO, "order": "TO", "mode": "fulll"},
        ],
    ),
}
_DATA: dict[str, Key] = {
    "data_path": some([], wrong=["no", "data/small", "data/small/small.inter"]),
    "MAX_ITEM_LIST_LENGTH": whole(1, 200),
    "load_col": some(
        [None, _COLUMNS, {"inter": "*"}],
        wrong=[{"inter": ["user_id", "item_id"]}, {"inter": None}, ["user_id"], "*", {"item": "*"}],
    ),
    "unload_col": some(
        [None], [{}], [{"inter": ["timestamp"]}, {"inter": ["user_id"]}, ["timestamp"], "timestamp"]
    ),
    "USER_ID_FIELD": some(["user_id"], ["item_id", "timestamp"]),
    "ITEM_ID_FIELD": some(["item_id"], ["user_id", "timestamp"]),
    "TIME_FIELD": some(["timestamp"]),
    "field_separator": some(["\t"], ["\\t"]),
    "encoding": Key(
        "Norm_SASRec",
        ["utf-8", "latin-1", "ascii", None, "UTF-8", "utf-16", "no-such", "", 0, []],
        _judge_encoding,
    ),
    "user_inter_num_interval": Key("Norm_SASRec", _INTERVALS, _judge_interval),
    "item_inter_num_interval": Key("Norm_SASRec", _INTERVALS, _judge_interval),
    "val_interval": some(
        [None], [{}, {"timestamp": "[0,inf)"}], [{"x": "[0,1]"}, {"timestamp": "x"}, "[0,1]", 1]
    ),
    "rm_dup_inter": some(["first", "last", None], ["None"]),
}
_OF_BACKBONES: dict[str, Key] = {
    "hidden_size": some([16, 32], [1e12, 2], [0, -2, 17, 10**12, 1.5]),
    "inner_size": whole(1, 10**4, above=False),
    "n_layers": whole(1, 10, above=False),
    "n_heads": Key("Norm_SASRec", [1, 2, 3, 5, 16, 17, 0, -2], _judge_heads),
    "hidden_dropout_prob": number(high=1),
    "attn_dropout_prob": number(high=1),
    "hidden_act": some(["gelu", "relu", "swish", "tanh", "sigmoid"]),
    "layer_norm_eps": number(),
    "initializer_range": number(),
    "num_layers": whole(1, 10, "Norm_GRU4Rec", above=False),
    "embedding_size": whole(1, 10**4, "Norm_GRU4Rec", above=False),
    "dropout_prob": number(high=1, model="Norm_GRU4Rec"),
    "nv": whole(1, 1000, "Norm_Caser"),
    "nh": whole(1, 1000, "Norm_Caser"),
    "reg_weight": number(model="Norm_Caser"),
}
KEYS = OURS | _TRAINING | _EVALUATION | _DATA | _OF_BACKBONES
