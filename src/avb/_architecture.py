"""The networks and the likelihood that all presets share. Imports JAX only when it builds."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, get_args

from avb._errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from avb._types import Key
    from avb.models import AbstractLikelihood, LatentVariableModel

Network = Literal["mlp", "conv"]
Likelihood = Literal[
    "bernoulli", "normal", "pixel-normal", "categorical", "poisson", "negative-binomial"
]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Shapes, networks and likelihood, the same for every method that is compared.

    Attributes:
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        network: ``"mlp"``, or ``"conv"`` for images.
        width: Units of each hidden layer.
        depth: Hidden layers of the fully connected networks.
        channels: Of each convolution of the encoder, first to last, each of which halves height
            and width; the decoder has the same in reverse.
        noise_width: Units of each hidden layer between noise and draw, where the posterior has
            such a network; by default 128 for an implicit one, 64 for a semi-implicit one.
        noise_depth: Hidden layers of that network; by default 2 and 1.
        noise_reach: How far that of an implicit posterior may move a draw, in units of the
            posterior's scales; by default 1 in ``avb_adaptive``, 4 in ``avb``.
        likelihood: A name, or any :class:`~avb.models.AbstractLikelihood`. ``"normal"``
            has a decoded scale, ``"pixel-normal"`` a learned one for each element.
        num_classes: Classes of the categorical likelihood.
        input_shift: Subtracted from what the encoder sees; the data's mean.
        input_scale: Divides what the encoder sees; the data's standard deviation.

    Raises:
        ConfigError: A size that is not positive, or an unknown name.
    """

    data_shape: tuple[int, ...]
    latent_dim: int = 8
    network: Network = "mlp"
    width: int = 300
    depth: int = 2
    channels: tuple[int, ...] = (16, 32, 32)
    noise_width: int | None = None
    noise_depth: int | None = None
    noise_reach: float | None = None
    likelihood: "Likelihood | AbstractLikelihood" = "bernoulli"
    num_classes: int = 256
    input_shift: float = 0.0
    input_scale: float = 1.0

    def __post_init__(self):
        for name in ("latent_dim", "width", "depth", "noise_width", "noise_depth"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigError(f"{name}: expected at least 1, got {size}")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(
                f"channels: expected one convolution or more of at least 1, got {self.channels}"
            )
        if self.noise_reach is not None and not 0 < self.noise_reach < math.inf:
            raise ConfigError(f"noise_reach: expected a positive number, got {self.noise_reach}")
        if not self.data_shape or min(self.data_shape) < 1:
            raise ConfigError(f"data_shape: expected positive sizes, got {self.data_shape}")
        if self.network not in get_args(Network):
            raise ConfigError(
                f"network: expected one of {', '.join(get_args(Network))}, got {self.network!r}"
            )
        known = get_args(Likelihood)
        if isinstance(self.likelihood, str) and self.likelihood not in known:
            raise ConfigError(
                f"likelihood: expected one of {', '.join(known)}, got {self.likelihood!r}"
            )
        if not self.input_scale > 0:
            raise ConfigError(f"input_scale: expected a positive number, got {self.input_scale}")

    @property
    def noise_sizes(self) -> dict[str, Any]:
        """Those of the network between noise and draw that are not left to the posterior."""
        sizes = {"width": self.noise_width, "depth": self.noise_depth}
        return {name: size for name, size in sizes.items() if size is not None}

    def build_likelihood(self) -> "AbstractLikelihood":
        """The likelihood as an object."""
        from avb import models

        if not isinstance(self.likelihood, str):
            return self.likelihood
        make = {
            "bernoulli": models.Bernoulli,
            "normal": models.DecodedNormal,
            "pixel-normal": lambda: models.PixelNormal(self.data_shape),
            "categorical": lambda: models.Categorical(self.num_classes),
            "poisson": models.Poisson,
            "negative-binomial": models.NegativeBinomial,
        }
        return make[self.likelihood]()

    def build_encoder(self, *, key: "Key") -> "Callable":
        """A network from one datum to a feature vector of length ``width``."""
        from avb import nets

        shift, scale = self.input_shift, self.input_scale
        if self.network == "conv":
            return nets.ConvEncoder(
                self.data_shape,
                channels=self.channels,
                width=self.width,
                shift=shift,
                scale=scale,
                key=key,
            )
        return nets.MLPEncoder(
            self.data_shape, width=self.width, depth=self.depth, shift=shift, scale=scale, key=key
        )

    def build_model(self, *, key: "Key") -> "LatentVariableModel":
        """Standard normal prior, decoder and likelihood."""
        from avb import nets
        from avb.models import LatentVariableModel
        from avb.models._latent import standard_normal

        likelihood = self.build_likelihood()
        out_shape = (likelihood.num_parameters, *self.data_shape)
        if self.network == "conv":
            decoder = nets.ConvDecoder(
                self.latent_dim,
                out_shape,
                channels=self.channels[::-1],
                width=self.width,
                key=key,
            )
        else:
            decoder = nets.MLPDecoder(
                self.latent_dim, out_shape, width=self.width, depth=self.depth, key=key
            )
        return LatentVariableModel(
            standard_normal(self.latent_dim), decoder, likelihood, self.data_shape
        )
