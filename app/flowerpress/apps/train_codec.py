"""Federated training of a learned codec, on the features that an encoder makes of each client's own images. ::

    images ─► encoder ─► features (n, L, C) ─► codec's rate and distortion ─► its weights, pressed like any model's

The run leaves ``codec.fpb`` behind: weights with tables, ready for ``learned(weights='…/codec.fpb')``.
"""

import logging
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from flowerpress.apps.jobs import Job
from flowerpress.apps.latents import features_of, with_weights
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from flowerpress.apps.jobs import State
    from flowerpress.latent_codecs.tokens import TokenCodec
    from flowerpress.latent_codecs.training import Aim

FILE = "codec.fpb"
_log = logging.getLogger("flwr")


class TrainingCodec(Job):
    """A codec of tokens, trained by Adam, with a learning rate that falls along half a cosine over the whole run."""

    @cached_property
    def features(self) -> "torch.Tensor":
        """What the encoder makes of the images, (n, L, C)."""
        import torch

        from flowerpress.apps.classify import device

        found = features_of(self.images, self.config)
        if found.ndim != 3:
            raise ConfigError(f"expected an encoder that makes tokens (n, L, C), found {list(found.shape)}")
        return torch.from_numpy(found).to(device())

    @cached_property
    def _aim(self) -> "Aim":
        from flowerpress.latent_codecs.training import Aim

        weight, head_weight = self.config.distortion_weight, self.config.head_weight
        if not head_weight:
            return Aim(weight)
        encoder = with_weights(self.config).to(self.features.device).eval().requires_grad_(False)
        head = getattr(encoder, "head", None)
        if not callable(head):
            raise ConfigError(f"expected a head of {self.config.encoder_model}, which has none: set head-weight=0.0")
        return Aim(weight, head, head_weight)

    def initial(self) -> "State":
        return _parameters(self._made())

    def train(self, state: "State", server_round: int, seed: int) -> tuple["State", float]:
        import torch

        from flowerpress.latent_codecs.training import train

        config, model = self.config, self._with(state)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of the noise
            loss = train(
                model,
                self.features,
                epochs=config.local_epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                aim=self._aim,
                seed=seed,
                grid=self._grid(model),
                fall=((server_round - 1) / config.num_server_rounds, server_round / config.num_server_rounds),
            )
        return _parameters(model), loss

    def evaluate(self, state: "State") -> dict[str, float]:
        from flowerpress.latent_codecs.training import measure

        model = self._with(state)
        cost = measure(model, self.features, self._aim, self._grid(model))
        figures = {"loss": self._aim.whole(cost), "rate": cost.rate, "distortion": cost.distortion}
        return {name: figure.item() for name, figure in figures.items()}

    def finish(self, state: "State", folder: Path) -> None:
        """Write the codec with its tables, and keep it on this machine."""
        from flowerpress.arrays.files import arrays_to_file
        from flowerpress.latent_codecs.training import finish
        from flowerpress.latent_codecs.weights import install

        model = self._with(state)
        finish(model)
        weights = model.cpu().state_dict()
        arrays_to_file(weights, folder / FILE)
        _log.info("flowerpress: the codec is %s: learned(weights='%s')", folder / FILE, install(weights))

    def _made(self) -> "TokenCodec":
        """Return the codec that the run names, the same for equal seeds."""
        import torch

        from flowerpress.extraction.models import model_for
        from flowerpress.latent_codecs.tokens import TokenCodec

        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            model = model_for(SimpleNamespace(ssl_model=self.config.codec_model))
        if not isinstance(model, TokenCodec):
            raise ConfigError(f"expected {self.config.codec_model!r} to make a codec of tokens, found {type(model)}")
        return model

    def _with(self, state: "State") -> "TokenCodec":
        model = self._made().to(self.features.device)
        model.load_state_dict(state, strict=False)  # tables are made at the end
        return model

    def _grid(self, model: "TokenCodec") -> tuple[int, int]:
        return model.square(self.features.shape[1])


def _parameters(model: "TokenCodec") -> "State":
    return {name: p.detach().cpu() for name, p in model.named_parameters()}
