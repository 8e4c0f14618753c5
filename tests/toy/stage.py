import torch

from recbole_tslrec.config.keys import Key, declare
from recbole_tslrec.config.values import ABOVE_0
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
