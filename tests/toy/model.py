import torch
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import ABOVE_0
from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.prompts.segments import Items, Words, tokens_of
from recbole_tslrec.language_model.prompts.template import make_template
from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.language_model.readout import pooled
from recbole_tslrec.stages.stage import Stage

FILE = "counts.safetensors"
TOY = declare("The toy", Key("toy_smoothing", 1.0, "What each count starts from.", ABOVE_0))


class CountsStage(Stage):
    name = "toy_counts"  # how often each item occurs in the training histories
    keys = TOY.names

    @property
    def made_from(self):
        return {"settings": self.settings()} | self.pipeline.data_fingerprint

    def make(self, folder):
        items = torch.from_numpy(self.pipeline.histories.items)
        counts = items.bincount(minlength=len(self.pipeline.tokens) + 1)[1:]
        self.save_items(folder, FILE, {"count": counts + self.config["toy_smoothing"]})


class Toy(SequentialRecommender):
    """A frozen language model reads the history; its state and the counts score all items."""

    backbone = None

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        source = open_source_for(config)
        words = Words(tokens_of(source.tokenizer, "given the history :"))
        segments = [words, Items("history", slots=True)]
        self.template = make_template(source.tokenizer, segments, source.context_length)
        model = load_language_model(source, "none", config["device"])
        self.encoder = ItemEncoder(model, torch.randn(self.n_items, 16))
        self.register_buffer("log_counts", torch.zeros(self.n_items))
        self.head = torch.nn.Linear(source.hidden_size, self.n_items)

    @staticmethod
    def stages(config):
        return (CountsStage,)

    def prepare(self, pipeline):
        self.log_counts[1:] = pipeline.stage(CountsStage).read_items(FILE, "count").log()

    def full_sort_predict(self, interaction):
        rows = zip(interaction[self.ITEM_SEQ].cpu(), interaction[self.ITEM_SEQ_LEN], strict=True)
        batch = self.template.batch({"history": [row[:n].numpy() for row, n in rows]})
        return self.head(pooled(self.encoder(**batch), "last")) + self.log_counts

    def calculate_loss(self, interaction):
        scores = self.full_sort_predict(interaction)
        return torch.nn.functional.cross_entropy(scores, interaction[self.POS_ITEM_ID])

    def predict(self, interaction):
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])
