"""Every line of the table of backbones: what it says of its model, and that its variants work."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer
from support.small_backbones import keys_of, pretrained
from support.stages import pipeline_of

from recbole_tslrec import register_backbone
from recbole_tslrec.backbones import class_code
from recbole_tslrec.backbones.registry import BACKBONES, NO_BACKBONES, Backbone
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.paradigms.tslrec.models import MODELS
from recbole_tslrec.recbole_bridge.paradigm import PARADIGMS, staged_models
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.register import _recbole_models
from recbole_tslrec.recbole_bridge.trainers import BackboneTrainer
from recbole_tslrec.recommendation.search import item_table
from recbole_tslrec.stages.backbone import BackboneStage

VARIANTS = ("TSLRec", "CI", "Norm")
# Each backbone in one variant: which variant changes nothing that is a backbone's own.
ONE_EACH = [f"{VARIANTS[n % 3]}_{name}" for n, name in enumerate(BACKBONES)]


def untrained(name: str, dataset: str, settings: dict):
    """A model with random weights, without dropout, and a batch of validation rows."""
    keys = settings | {"train_neg_sample_args": None} | keys_of(name)
    config = Config(name, dataset, config_dict=keys)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    model = get_model(name)(config, train_data._dataset).eval()
    return model, next(iter(valid_data))[0]


@pytest.mark.parametrize("model", ONE_EACH)
def test_a_variant_trains_loads_and_folds_to_the_plain_model_of_the_same_scores(
    model, small_data, settings, tmp_path
):
    variant, _, backbone = model.partition("_")
    changes = keys_of(backbone) | ({"enhancement": "random"} if variant == "TSLRec" else {})
    if backbone == "S3Rec":
        changes |= pretrained(small_data, settings)
    experiment = run_experiment(model, small_data, config_dict=settings | changes)
    _, fused, _, _, _, test_data = load_data_and_model(experiment.checkpoint)
    fold_checkpoint(experiment.checkpoint, tmp_path / "plain.pth")
    config, plain, *_ = load_data_and_model(str(tmp_path / "plain.pth"))
    assert type(plain) is get_model(backbone) and config["model"] == backbone
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        expected = fused.eval().full_sort_predict(interaction)
        torch.testing.assert_close(plain.eval().full_sort_predict(interaction), expected)
    assert expected.numel() == len(interaction) * test_data.dataset.item_num
    assert expected.isfinite().all()


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "S3Rec"])
def test_padding_is_cut_off_of_those_backbones_whose_scores_stay(name, small_data, settings):
    """S3Rec's scores are SASRec's, but for the table's last row; it needs a file to start from."""
    model, rows = untrained(name, small_data, settings)
    rows = rows[rows["item_length"] <= 3]
    short = Interaction({column: rows[column] for column in rows.columns})
    short.update(Interaction({"item_id_list": rows["item_id_list"][:, :3]}))
    with torch.no_grad():
        expected = model.full_sort_predict(rows)
        if BACKBONES[name].cuts_padding:
            torch.testing.assert_close(model.full_sort_predict(short), expected)


@pytest.mark.parametrize("name", ["BERT4Rec", "S3Rec"])
def test_rows_behind_the_items_stay_the_backbones_own(name, small_data, settings):
    changes = keys_of(name) | {"enhancement": "random", "item_norm": "l2"}
    if name == "S3Rec":
        changes |= pretrained(small_data, settings)
    experiment = run_experiment(f"TSLRec_{name}", small_data, config_dict=settings | changes)
    model = experiment.trainer.model
    n_items = len(model.id_embeddings)
    table = model.item_table.parametrizations.weight.original
    assert len(table) == n_items + 1 == experiment.test_data.dataset.item_num + 1
    assert torch.equal(model.item_table.weight[n_items:], table[n_items:])
    lengths = model.item_table.weight[1:n_items].norm(dim=1)
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))
    assert model.fusion.enhanced.shape[0] == n_items
    assert len(item_table(model)) == n_items
    spec = BACKBONES[name]
    plain = {"state_dict": {f"{spec.item_table}.weight": table}}
    assert torch.equal(spec.item_embeddings(plain), table[1:n_items].float())


@pytest.mark.parametrize("name", NO_BACKBONES)
def test_what_is_no_backbone_is_refused_with_the_reason(name, small_data, settings):
    with pytest.raises(ValueError, match=rf"\[TSLRec_{name}\]: \[{name}\] \w+ .*SASRec"):
        Config(f"TSLRec_{name}", small_data, config_dict=settings)


def test_every_sequential_model_of_recbole_is_a_backbone_or_has_a_reason():
    ours = {name for name, one in BACKBONES.items() if one.module.startswith("recbole.")}
    assert ours | set(NO_BACKBONES) == set(_recbole_models()) and not ours & set(NO_BACKBONES)


def test_features_that_are_not_loaded_are_named(small_data, settings):
    with pytest.raises(ValueError, match=r"^selected_features: .class. .*load_col"):
        Config("TSLRec_SASRecF", small_data, config_dict=settings)
    all_columns = settings | {"load_col": settings["load_col"] | {"item": "*"}}
    config = Config("TSLRec_SASRecF", small_data, config_dict=all_columns)
    assert config["load_col"]["item"] == "*"


# ---- S3Rec's two stages ------------------------------------------------------------------------------


def test_s3rec_goes_on_from_its_own_pretraining_alone(small_data, settings, tmp_path):
    keys = settings | keys_of("S3Rec")
    with pytest.raises(ValueError, match="^train_stage: .pretrain. .*Set train_stage: finetune"):
        Config("TSLRec_S3Rec", small_data, config_dict=keys)
    with pytest.raises(ValueError, match="^pre_model_path: there is no file"):
        Config("TSLRec_S3Rec", small_data, config_dict=keys | {"train_stage": "finetune"})
    with pytest.raises(ValueError, match="^save_step: .50. is more than pretrain_epochs: .1."):
        Config("S3Rec", small_data, config_dict=keys | {"pretrain_epochs": 1})
    keys |= pretrained(small_data, settings)
    base = run_experiment("S3Rec", small_data, config_dict=keys | {"train_neg_sample_args": None})
    assert base.test_result["ndcg@10"] >= 0
    file = tmp_path / "data" / small_data / f"{small_data}.inter"
    file.write_text(file.read_text() + "u3\ti1\t99\n")
    with pytest.raises(ValueError, match="^pre_model_path: .* other training interactions"):
        run_experiment("TSLRec_S3Rec", small_data, config_dict=keys)


# ---- a user's own ------------------------------------------------------------------------------------


class MyMean(SequentialRecommender):
    """A user's own backbone: the mean of the history's items, from a table of another name."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.loss_type = config["loss_type"]
        self.things = torch.nn.Embedding(self.n_items, config["my_width"], padding_idx=0)

    def forward(self, item_seq, item_seq_len):
        counts = torch.arange(1, item_seq.shape[1] + 1)[:, None]
        return self.gather_indexes(self.things(item_seq).cumsum(dim=1) / counts, item_seq_len - 1)

    def calculate_loss(self, interaction):
        scores = self.full_sort_predict(interaction)
        return torch.nn.functional.cross_entropy(scores, interaction[self.POS_ITEM_ID])

    def predict(self, interaction):
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def full_sort_predict(self, interaction):
        states = self(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return states @ self.things.weight.T


@pytest.fixture(scope="module")
def my_mean():
    before = {name: set(paradigm.models) for name, paradigm in PARADIGMS.items()}
    register_backbone(MyMean, item_table="things", causal=True, by_product=True)
    yield
    BACKBONES.pop("MyMean")
    for name, paradigm in PARADIGMS.items():
        for new in set(paradigm.models) - before[name]:
            paradigm.models.pop(new)


def test_whole_sequences_are_for_products_of_states_and_items():
    cosines = Backbone("MyCosines", "mine", causal=True)
    assert cosines.batchings == ("prefix",) and cosines.cuts_padding
    assert Backbone("MyProducts", "mine", causal=True, by_product=True).batchings[0] == "sequence"


@pytest.mark.parametrize("model", ["SASRecCPR", "TSLRec_GRU4RecCPR"])
def test_what_the_cpr_models_cannot_do_is_said_early(model, small_data, settings):
    given = settings | keys_of("SASRecCPR")
    with pytest.raises(ValueError, match=r"eval_args: .*scores all items at once"):
        modes = {"eval_args": {"order": "TO", "mode": {"valid": "full", "test": "uni10"}}}
        Config(model, small_data, config_dict=given | modes | {"train_neg_sample_args": None})
    negatives = {"distribution": "uniform", "sample_num": 1}
    with pytest.raises(ValueError, match=r"loss_type: \[BPR\].* Set loss_type: CE"):
        bpr = {"loss_type": "BPR", "train_neg_sample_args": negatives}
        Config(model, small_data, config_dict=given | bpr)


def test_sine_alone_has_its_third_loss(small_data, settings):
    """The softmax in other words, with a term that keeps its concepts apart."""
    given = settings | {"loss_type": "NLL", "train_neg_sample_args": None, "epochs": 1}
    experiment = run_experiment("SINE", small_data, config_dict=given)
    assert isinstance(experiment.trainer, BackboneTrainer)
    assert experiment.trainer.model.loss_type == "NLL" and experiment.test_result["ndcg@10"] >= 0
    for model in ("TSLRec_SINE", "LlamaRec_SINE", "SASRec"):
        with pytest.raises(ValueError, match="^loss_type: .'NLL'. is not one of CE, BPR"):
            Config(model, small_data, config_dict=given)
    with pytest.raises(ValueError, match=r"sampled_loss: .*loss_type is \[NLL\]"):
        Config("SINE", small_data, config_dict=given | {"sampled_loss": "gbce"})


def test_a_variant_has_no_table_beside_the_fused_one_for_scores(small_data, settings):
    given = settings | {"use_out_emb": True, "train_neg_sample_args": None}
    assert Config("GRU4RecCPR", small_data, config_dict=given)["use_out_emb"]
    for model in ("TSLRec_GRU4RecCPR", "CI_GRU4RecCPR", "LlamaRec_GRU4RecCPR"):
        with pytest.raises(ValueError, match=r"use_out_emb: \[True\] is not .* use_out_emb: False"):
            Config(model, small_data, config_dict=given)
    Config("SASRecCPR", small_data, config_dict=given)  # it has no such key


def test_a_users_own_model_is_a_backbone_like_any_other(my_mean, small_data, settings, tmp_path):
    keys = settings | {"my_width": 8, "loss_type": "CE"}
    experiment = run_experiment(
        "TSLRec_MyMean", small_data, config_dict=keys | {"train_batching": "sequence"}
    )
    assert type(experiment.trainer.model) is MODELS["TSLRec_MyMean"]
    fold_checkpoint(experiment.checkpoint, tmp_path / "plain.pth")
    config, plain, *_ = load_data_and_model(str(tmp_path / "plain.pth"))
    assert type(plain) is MyMean
    assert issubclass(get_trainer(config["MODEL_TYPE"], "MyMean"), BackboneTrainer)
    assert experiment.stages[0].name == "backbone"  # it serves the stages, too


def test_a_class_of_the_same_place_takes_the_place_of_the_one_before(my_mean, monkeypatch):
    """As a notebook's cell that is run again defines it."""
    kept = dict(item_table="things", causal=True, by_product=True)
    again = type("MyMean", (MyMean,), {"__module__": __name__})
    monkeypatch.setitem(globals(), "MyMean", again)
    register_backbone(again, **kept)
    assert get_model("MyMean") is again and issubclass(get_model("CI_MyMean"), again)
    monkeypatch.undo()
    register_backbone(MyMean, **kept)
    assert get_model("MyMean") is MyMean
    elsewhere = type("MyMean", (MyMean,), {"__module__": "collections"})
    monkeypatch.setattr("collections.MyMean", elsewhere, raising=False)
    with pytest.raises(ValueError, match="a model .MyMean. already"):
        register_backbone(elsewhere)


def test_what_a_users_own_model_reads_makes_another_backbone(
    my_mean, small_data, settings, tmp_path, monkeypatch
):
    """Its code, and columns of the rows; of a model of the table neither counts."""
    file = tmp_path / "data" / small_data / f"{small_data}.inter"
    header, *lines = file.read_text().splitlines()
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp", "rating", "place"]}}
    given = settings | columns | {"my_width": 8, "loss_type": "CE", "train_neg_sample_args": None}

    def stage(model="MyMean", rating=1, place="home", rows=lines, **more):
        head = f"{header}\trating:float\tplace:token"
        written = [f"{row}\t{rating if row == lines[2] else 2}\t{place}{row[1]}" for row in rows]
        file.write_text("\n".join([head, *written]) + "\n")
        pipeline = pipeline_of(given | more, small_data, f"TSLRec_{model}")
        return pipeline.stage(BackboneStage)

    first = stage()
    assert {"code", "interactions", "validated"} < first.made_from.keys()
    assert {"rating", "rating_list", "place_list"} < first.made_from["interactions"].keys()
    # RecBole numbers all tokens otherwise; a user's rows keep their order.
    last_user_first = sorted(lines, key=lambda row: -int(row.split("\t")[0][1:]))
    renumbered = stage(rows=last_user_first)
    assert renumbered.pipeline.tokens != first.pipeline.tokens
    assert renumbered.made_from == first.made_from
    assert stage(rating=3).fingerprint != first.fingerprint
    assert stage(place="work").fingerprint != first.fingerprint
    checkpoint = run_experiment("MyMean", small_data, config_dict=given).checkpoint
    with_given = stage(backbone_checkpoint=checkpoint).fingerprint

    of_the_table = [stage("SASRec"), stage("SASRec", rating=3)]
    of_the_table.append(stage("SASRec"))
    cells = [Cell("small", model, "Base", 1, {}, "0") for model in ("MyMean", "SASRec")]
    ids = [(cell.id, cell.configuration) for cell in cells]
    monkeypatch.setattr(class_code, "file_hash", lambda path: "another")
    assert len({one.fingerprint for one in (*of_the_table, stage("SASRec"))}) == 1
    assert of_the_table[0].made_from.keys() == {"backbone", "settings", "data"}
    assert stage().fingerprint != first.fingerprint
    assert stage(backbone_checkpoint=checkpoint).fingerprint != with_given
    of_mine, of_sasrec = ((cell.id, cell.configuration) for cell in map(replace, cells))
    assert not {*of_mine} & {*ids[0]} and of_sasrec == ids[1]


def test_every_paradigm_with_a_backbone_has_a_model_of_a_users_own(my_mean):
    of_sasrec = [name for name in staged_models() if name.endswith("_SASRec")]
    assert {"TSLRec_SASRec", "LlamaRec_SASRec", "DELRec_SASRec", "LLMTRSR_SASRec"} < set(of_sasrec)
    for name in of_sasrec:
        own = name.replace("SASRec", "MyMean")
        model = get_model(own)
        assert model.__name__ == own and model.backbone is BACKBONES["MyMean"]
        assert getattr(sys.modules[model.__module__], own) is model  # as pickle looks for it
        assert get_trainer(None, own) is get_trainer(None, name)


def test_a_users_own_model_retrieves_for_a_language_model(my_mean, small_data, settings):
    own = {"my_width": 8, "loss_type": "CE", "n_candidates": 5, "sft_epochs": 1}
    slots = {"llamarec_items": "slots", "llamarec_head": "linear"}
    experiment = run_experiment("LlamaRec_MyMean", small_data, config_dict=settings | own | slots)
    _, model, *_ = load_data_and_model(experiment.checkpoint)
    assert type(model.retriever) is MyMean


def test_what_cannot_be_registered_is_refused():
    class Inner(SASRec):
        pass

    with pytest.raises(ValueError, match="Inner.*top level of a module"):
        register_backbone(Inner)
    with pytest.raises(ValueError, match="no SequentialRecommender"):
        register_backbone(torch.nn.Linear)
    with pytest.raises(ValueError, match="a model .SASRec. already"):
        register_backbone(SASRec)
