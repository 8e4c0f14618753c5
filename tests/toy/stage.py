import torch

from recbole_tslrec.config.keys import Key, declare
from recbole_tslrec.config.values import ABOVE_0
from recbole_tslrec.stages.stage import Stage

TOY = declare("The toy", Key("toy_smoothing", 1.0, "What each count starts from.", ABOVE_0))


class CountsStage(Stage):
    """How often each item occurs in the training histories."""

    name = "toy_counts"
    keys = TOY.names

    @property
    def made_from(self):
        training = self.pipeline.data_fingerprint["training"]
        return {"settings": self.settings(), "training": training}

    def make(self, folder):
        items = torch.from_numpy(self.pipeline.histories.items)
        counts = items.bincount(minlength=len(self.pipeline.tokens) + 1)[1:]
        counts = counts + self.config["toy_smoothing"]
        self.save_items(folder, "counts.safetensors", {"count": counts})

    def counts(self):
        return self.read_items("counts.safetensors", "count")
