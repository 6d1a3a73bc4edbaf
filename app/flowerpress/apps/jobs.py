"""What a run trains: a classifier of images, or a codec of their features. Server and clients do the same job.

========  ================  ============================
task      classify          train-codec
========  ================  ============================
model     of `models`       of `codecs`
loss      cross entropy     rate + weight · distortion
figures   accuracy, loss    loss, rate, distortion
========  ================  ============================
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from flowerpress.apps.config import TRAIN_CODEC, Config
from flowerpress.apps.data import Images
from flowerpress.apps.latents import seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    State = Mapping[str, torch.Tensor]


class Job(ABC):
    """A model, and the images that somebody has for it."""

    def __init__(self, config: Config, images: Images) -> None:
        self.config, self.images = config, images

    @abstractmethod
    def initial(self) -> "State":
        """Return the state that a run starts from, the same for equal seeds."""

    @abstractmethod
    def train(self, state: "State", server_round: int, seed: int) -> tuple["State", float]:
        """Train for some epochs; return the state, and the mean loss."""

    @abstractmethod
    def evaluate(self, state: "State") -> dict[str, float]:
        """Return the loss and other figures of a state."""

    def finish(self, state: "State", folder: Path) -> None:
        """Leave behind what a run was for, besides the state."""
        del state, folder


class Classifying(Job):
    """A classifier, trained by SGD."""

    def __init__(self, config: Config, images: Images) -> None:
        super().__init__(config, seen(images, config))

    def initial(self) -> "State":
        from flowerpress.apps.models import model_for

        return model_for(self.config.model, self.images, self.config.seed).state_dict()

    def train(self, state: "State", server_round: int, seed: int) -> tuple["State", float]:
        from flowerpress.apps import classify
        from flowerpress.apps.models import model_with

        model = model_with(self.config.model, self.images, dict(state))
        loss = classify.train(
            model,
            self.images,
            epochs=self.config.local_epochs,
            batch_size=self.config.batch_size,
            learning_rate=self.config.learning_rate,
            seed=seed,
        )
        return model.state_dict(), loss

    def evaluate(self, state: "State") -> dict[str, float]:
        from flowerpress.apps import classify
        from flowerpress.apps.models import model_with

        model = model_with(self.config.model, self.images, dict(state))
        loss, accuracy = classify.evaluate(model, self.images)
        return {"loss": loss, "accuracy": accuracy}


def job_for(config: Config, images: Images) -> Job:
    """Return the job of a run for these images."""
    if config.task == TRAIN_CODEC:
        from flowerpress.apps.train_codec import TrainingCodec

        return TrainingCodec(config, images)
    return Classifying(config, images)
