"""RecBole's own keys: what is wrong is refused by name, and what RecBole takes is taken."""

from pathlib import Path

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer
from support.small_backbones import keys_of

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.config.recbole_keys import RECBOLE_KEYS, check_loss
from recbole_tslrec.store.stored_config import config_state

WRONG = [
    ("gpu_id", "cuda:0", "gpu_id: .'cuda:0'. is not numbers of GPUs"),
    ("gpu_id", [0, 1], "gpu_id"),
    ("use_gpu", "yes", "use_gpu: .'yes'. is not True or False"),
    ("worker", -1, "worker: .-1. is not a whole number, 0 or larger"),
    ("worker", None, "worker"),
    ("seed", "abc", "seed: .'abc'. is not a whole number in"),
    ("seed", 2.5, "seed"),
    ("seed", 2**32, "seed"),
    ("state", "INFOO", "state: .'INFOO'. is not one of debug, info"),
    ("state", 3, "state"),
    ("reproducibility", "maybe", "reproducibility"),
    ("data_path", None, "data_path: .None. is not a path"),
    ("checkpoint_dir", 5, "checkpoint_dir"),
    ("checkpoint_dir", "", "checkpoint_dir: .''. is not a path"),
    ("show_progress", "no", "show_progress"),
    ("shuffle", "yes", "shuffle"),
    ("epochs", 0, "epochs"),
    ("train_batch_size", "many", "train_batch_size"),
    ("eval_batch_size", 0, "eval_batch_size: .0. is not a whole number, 1 or larger"),
    ("learner", "adm", "learner: .'adm'. is not one of adam, adamw, sgd"),
    ("learner", "sparse_adam", "learner"),
    ("learner", None, "learner"),
    ("learning_rate", "fast", "learning_rate"),
    ("weight_decay", "a", "weight_decay: .'a'. is not a number, 0 or larger"),
    ("weight_decay", -1, "weight_decay"),
    ("eval_step", "never", "eval_step"),
    ("stopping_step", True, "stopping_step"),
    ("stopping_step", -1, "stopping_step"),
    ("clip_grad_norm", 5, "clip_grad_norm: .5. does not say which of max_norm"),
    ("clip_grad_norm", {"norm_type": 2}, "clip_grad_norm: .* has no max_norm"),
    ("clip_grad_norm", {"max_norm": "a"}, "clip_grad_norm: max_norm: .'a'. is not"),
    ("clip_grad_norm", {"maxnorm": 1}, "clip_grad_norm: .maxnorm. is not one of max_norm"),
    ("loss_decimal_place", "four", "loss_decimal_place"),
    ("metric_decimal_place", 10**18, "metric_decimal_place"),
    ("metric_decimal_place", None, "metric_decimal_place"),
    ("enable_amp", "on", "enable_amp"),
    ("enable_amp", 0, "enable_amp: .0. is not True or False"),
    ("loss_decimal_place", 10**12, "loss_decimal_place: .* 100 or smaller"),
    ("transform", "mask", "transform: .'mask'. is not one of mask_itemseq"),
    ("transform", "mask_itemseq", r"transform: .mask_itemseq. .* Set mask_ratio to a number in"),
    ("transform", "crop_itemseq", r"transform: .crop_itemseq. .* eta is .None.\. Set eta to"),
    ("transform", "reorder_itemseq", r"transform: .reorder_itemseq. .* Set beta to a number in"),
    ("loss_type", "CEE", "loss_type: .'CEE'. is not one of CE, BPR"),
    ("metrics", [], "metrics"),
    ("metrics", ["AUC", "NDCG"], "metrics: .* in one run"),
    ("metrics", ["AUC"], "metrics: .* mode .* Give mode: uni100"),
    ("eval_args", {"order": "TO", "mode": "labeled"}, "metrics: .* rank items, .* Give mode: full"),
    ("eval_args", {"order": "TO", "mode": {"test": "labeled"}}, "metrics: .* rank items"),
    ("topk", [], "topk"),
    ("topk", (5, 10), "topk: ..5, 10.. is not .* as in .5,10"),
    ("topk", None, "topk"),
    ("topk", 0, "topk"),
    ("valid_metric_bigger", "yes", "valid_metric_bigger"),
    ("train_neg_sample_args", 3, "train_neg_sample_args: .3. does not say which of distribution"),
    ("train_neg_sample_args", {"distribution": "popular"}, "distribution: .'popular'. is not"),
    ("train_neg_sample_args", {"sample_num": 0}, "train_neg_sample_args: sample_num"),
    ("train_neg_sample_args", {"number": 1}, "train_neg_sample_args: .number. is not one of"),
    ("train_neg_sample_args", {"dynamic": True}, "train_neg_sample_args: dynamic needs"),
    ("eval_args", "full", "eval_args: .* does not say which of split"),
    ("eval_args", None, "eval_args: .None. does not say which of split"),
    ("eval_args", {"mode": "full"}, "eval_args: order: .'RO'. is not TO .* leaves it out"),
    ("eval_args", {"order": "time"}, "eval_args: order"),
    ("eval_args", {"order": "TO", "group_by": "item"}, "eval_args: group_by: .'item'."),
    ("eval_args", {"order": "TO", "mode": "fulll"}, "eval_args: mode: .'fulll'. is not full"),
    ("eval_args", {"order": "TO", "mode": "uniten"}, "eval_args: mode"),
    ("eval_args", {"order": "TO", "mode": None}, "eval_args: mode"),
    ("eval_args", {"order": "TO", "mode": {"val": "full"}}, "eval_args: mode"),
    ("eval_args", {"order": "TO", "split": {"LS": "valid"}}, "eval_args: split: .* is not"),
    ("eval_args", {"order": "TO", "split": {"RS": [0.8, 0.2]}}, "eval_args: split"),
    ("eval_args", {"order": "TO", "split": {"TS": [0, 0, 1]}}, "eval_args: split"),
    ("eval_args", {"order": "TO", "split": {"RS": [0, 0.5, 0]}}, "eval_args: split"),
    ("eval_args", {"order": "TO", "split": "LS"}, "eval_args: split"),
    ("eval_args", {"order": "TO", "splt": {"LS": "test_only"}}, "eval_args: .splt. is not one of"),
    ("field_separator", "", "field_separator"),
    ("field_separator", None, "field_separator"),
    ("encoding", "no-such", "encoding: .'no-such'. is not an encoding that Python knows"),
    ("encoding", (), "encoding"),
    ("encoding", 8, "encoding"),
    ("TIME_FIELD", ["timestamp"], "TIME_FIELD: ..'timestamp'.. is not the name of a column"),
    ("unload_col", "timestamp", "unload_col: .'timestamp'. is not lists of columns"),
    ("unload_col", {"inter": "rating"}, "unload_col"),
    ("val_interval", 10**12, "val_interval: .* is not intervals or lists by column"),
    ("val_interval", {"timestamp": "x"}, "val_interval"),
    ("MAX_ITEM_LIST_LENGTH", 0, "MAX_ITEM_LIST_LENGTH: .0. is not a whole number"),
    ("MAX_ITEM_LIST_LENGTH", 50.5, "MAX_ITEM_LIST_LENGTH"),
    ("LIST_SUFFIX", "", "LIST_SUFFIX"),
    ("rm_dup_inter", "firstt", "rm_dup_inter"),
    ("benchmark_filename", [], r"benchmark_filename: .\[\]. is not the parts of .* or ~ for none"),
    ("benchmark_filename", "train,valid,test", "benchmark_filename"),
    ("benchmark_filename", ["train", "test"], "benchmark_filename"),
    ("user_inter_num_interval", 5, "user_inter_num_interval: .5. is not intervals as in"),
    ("item_inter_num_interval", "5,inf", "item_inter_num_interval"),
    ("item_inter_num_interval", "[9,5]", "item_inter_num_interval"),
    ("hidden_size", 64.0, "hidden_size"),
    ("inner_size", "large", "inner_size"),
    ("n_layers", 0, "n_layers: .0. is not a whole number, 1 or larger"),
    ("n_layers", 10**12, "n_layers: .* 10000 or smaller"),
    ("inner_size", 10**18, "inner_size"),
    ("n_heads", 3, "n_heads: .3. does not divide hidden_size: .64."),
    ("hidden_dropout_prob", 1.5, r"hidden_dropout_prob: .1.5. is not a number in \[0, 1\]"),
    ("attn_dropout_prob", "half", "attn_dropout_prob"),
    ("hidden_act", "gleu", "hidden_act: .'gleu'. is not one of gelu, relu"),
    ("layer_norm_eps", "small", "layer_norm_eps"),
    ("initializer_range", -1, "initializer_range"),
]
WRONG_FOR = [
    ("GRU4Rec", "num_layers", 0),
    ("GRU4Rec", "dropout_prob", -0.1),
    ("CI_GRU4Rec", "embedding_size", 0),
    ("Caser", "nv", 0),
    ("CI_Caser", "nh", "8 of them"),
    ("Caser", "reg_weight", "small"),
    ("FMLPRec", "hidden_act", 4),
]


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec", "E4SRec"])
@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_wrong_value_is_refused_by_name(model, key, value, message, small_data, settings):
    keys = {"train_neg_sample_args": None} | settings | {key: value}
    with pytest.raises(ValueError, match=message):
        Config(model, small_data, config_dict=keys)


@pytest.mark.parametrize(("model", "key", "value"), WRONG_FOR)
def test_a_models_own_wrong_value_is_refused(model, key, value, small_data, settings):
    keys = {"train_neg_sample_args": None} | settings | {key: value}
    with pytest.raises(ValueError, match=f"^{key}: "):
        Config(model, small_data, config_dict=keys)


def test_a_transform_takes_a_share_that_is_one(small_data, settings):
    keys = {"train_neg_sample_args": None, "transform": "crop_itemseq", "eta": 1.5}
    with pytest.raises(ValueError, match=r"transform: .* eta is .1.5.\. Set eta to a number in"):
        Config("SASRec", small_data, config_dict=settings | keys)
    # It is the default of a model of RecBole's.
    Config("BERT4Rec", small_data, config_dict=settings | keys | {"transform": "mask_itemseq"})


TAKEN = [
    {"gpu_id": "0,1"},
    {"gpu_id": (0, 1)},
    {"gpu_id": 0},
    {"gpu_id": "GPU-8f3a2c1d-0000"},
    {"state": "debug"},
    {"state": None},
    {"learner": "AdamW", "weight_decay": 0},
    {"clip_grad_norm": {"max_norm": "5", "norm_type": "inf"}},
    {"clip_grad_norm": {}},
    {"clip_grad_norm": False},
    {"use_gpu": 0, "reproducibility": "false"},
    {"seed": "2021", "hidden_size": "32"},  # RecBole makes numbers of a command line's texts
    {"topk": 5, "metrics": "NDCG", "valid_metric": "NDCG@5"},
    {"metrics": ("Hit", "NDCG")},
    {"eval_args": {"order": "TO", "split": {"RS": [8, 1, 1]}, "group_by": None}},
    {"eval_args": {"order": "TO", "split": {"RS": [0, 0.5, 0.5]}}},  # one row a user is left
    {"eval_args": {"order": "TO", "split": {"LS": "test_only"}, "mode": {"test": "pop10"}}},
    {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"order": "TO", "mode": "uni5"}},
    {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "popularity"}},
    {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 2}},
    {"rm_dup_inter": "last", "user_inter_num_interval": "[2,inf);(0,1]"},
    {"user_inter_num_interval": "[2,30]", "item_inter_num_interval": None},  # read as a list
    {"item_inter_num_interval": [2, 30], "val_interval": {"timestamp": [0, 10**10]}},
    {"val_interval": {}, "unload_col": {}, "encoding": "UTF-8"},
    {"load_col": None, "unload_col": {"inter": []}, "enable_amp": False},
    {"n_heads": 1, "n_layers": 1, "hidden_dropout_prob": 0, "hidden_act": "swish"},
    {"num_layers": 0, "nh": "no key of SASRec's"},
    {"loss_decimal_place": "2", "metric_decimal_place": 6},
    {"stopping_step": float("inf"), "eval_step": -1},
    {"transform": "inverse_itemseq"},
    {"transform": "mask_itemseq", "mask_ratio": 0.5},
    {"transform": "crop_itemseq", "eta": 1},
    {"transform": "reorder_itemseq", "beta": 0},
]


@pytest.mark.parametrize("changes", TAKEN, ids=str)
def test_what_recbole_takes_is_taken_up_to_the_trainer(changes, small_data, settings):
    config = Config("FMLPRec", small_data, config_dict=settings | changes)
    config = Config("TSLRec_SASRec", small_data, config_dict=settings | changes)
    config["device"] = "cpu"
    train_data, *_ = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train_data._dataset)
    get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


@pytest.mark.parametrize("kind", [set, frozenset])
@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_a_set_of_columns_becomes_a_list_that_a_checkpoint_holds(model, kind, small_data, settings):
    columns = {"inter": kind({"user_id", "item_id", "timestamp"})}
    keys = settings | {"load_col": columns, "train_neg_sample_args": None}
    config = Config(model, small_data, config_dict=keys)
    kept = config_state(config)["final_config_dict"]["load_col"]
    assert kept == config["load_col"] == {"inter": ["item_id", "timestamp", "user_id"]}
    assert columns["inter"] == {"user_id", "item_id", "timestamp"}  # the user's own
    assert training_settings({"load_col": columns}) == {"load_col": str(kept)}  # of a cell


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_labels_that_are_not_loaded_are_refused(model, small_data, settings):
    labeled = {"eval_args": {"order": "TO", "mode": "labeled"}, "train_neg_sample_args": None}
    keys = settings | labeled | {"metrics": ["AUC"], "valid_metric": "AUC"}
    message = r"eval_args: mode .labeled. judges by LABEL_FIELD: .label., .*'timestamp'.\. Set"
    with pytest.raises(ValueError, match=message):
        Config(model, small_data, config_dict=keys)
    file = Path("data/small/small.inter")
    head, *rows = file.read_text().splitlines()
    rows = [f"{row}\t{number % 2}" for number, row in enumerate(rows)]
    file.write_text("\n".join([f"{head}\tlabel:float", *rows]))
    with pytest.raises(ValueError, match=message):  # it is there, and left out
        Config(model, small_data, config_dict=keys)
    keys["load_col"] = {"inter": ["user_id", "item_id", "timestamp", "label"]}
    Config(model, small_data, config_dict=keys)
    from_it = {"LABEL_FIELD": "liked", "threshold": {"label": 1}}
    Config(model, small_data, config_dict=keys | from_it)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "Caser", "FMLPRec"])
def test_recboles_own_defaults_are_taken(model, small_data, settings):
    given = {"data_path": "data", "train_neg_sample_args": None}
    config = Config(model, small_data, config_dict=given)
    assert set(RECBOLE_KEYS) & set(config.internal_config_dict)
    check_loss(config.final_config_dict)


def test_every_key_of_the_table_is_one_of_recboles(small_data, settings):
    known = set()
    for model in ("SASRec", "GRU4Rec", "Caser", "S3Rec"):
        given = {"data_path": "data", "train_neg_sample_args": None} | keys_of(model)
        known |= Config(model, small_data, config_dict=given).internal_config_dict.keys()
    assert set(RECBOLE_KEYS) <= known


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_a_ranking_longer_than_the_catalogue_is_refused_before_training(
    model, small_data, settings
):
    changes = {"train_neg_sample_args": None, "topk": [5, 31], "valid_metric": "NDCG@5"}
    config = Config(model, small_data, config_dict=settings | changes)
    train_data, *_ = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset)
    with pytest.raises(ValueError, match=r"topk: \[31\] is more than the 30 items .*\[small\]"):
        get_trainer(config["MODEL_TYPE"], model)(config, recommender)


@pytest.mark.parametrize("model", ["SASRecCPR", "GRU4RecCPR", "CI_SASRecCPR"])
def test_more_items_to_rerank_than_there_are_are_refused_before_training(
    model, small_data, settings
):
    def trainer(**changes):
        keys = settings | {"train_neg_sample_args": None, "n_categories": 3} | changes
        config = Config(model, small_data, config_dict=keys)
        train_data, *_ = data_preparation(config, create_dataset(config))
        recommender = get_model(model)(config, train_data._dataset)
        return get_trainer(config["MODEL_TYPE"], model)(config, recommender)

    with pytest.raises(ValueError, match=r"reranker_CAN_NUM: \[100\] is more than the 30 items"):
        trainer()  # of RecBole's default
    trainer(reranker_CAN_NUM=30)
    trainer(n_facet_reranker=0, n_facet_all=4)


def test_a_list_filters_as_the_text_of_it_does(small_data, settings):
    sizes = []
    for interval in ("[0,inf)", "[2,12]", [2, 12]):
        keys = settings | {"item_inter_num_interval": interval}
        sizes.append(len(create_dataset(Config("Norm_SASRec", small_data, config_dict=keys))))
    assert sizes[0] > sizes[1] == sizes[2]


def test_filters_that_leave_nothing_are_named(small_data, settings):
    keys = settings | {"user_inter_num_interval": [1, 2]}
    with pytest.raises(ValueError, match=r"\[small\].* user_inter_num_interval: \[1, 2\]\.$"):
        create_dataset(Config("Norm_SASRec", small_data, config_dict=keys))


def test_more_categories_than_items_are_refused_before_their_table_is_made(small_data, settings):
    config = Config("CI_SASRec", small_data, config_dict=settings | {"n_categories": 10**18})
    train_data, *_ = data_preparation(config, create_dataset(config))
    with pytest.raises(
        ValueError, match=r"n_categories: \[1000000000000000000\] is more than the 30"
    ):
        get_model("CI_SASRec")(config, train_data._dataset)
