"""Settings of a run. Imports no JAX, so that the command line starts quickly."""

import dataclasses
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from avb._architecture import Architecture, Likelihood, Network
from avb._check import expect_gradient_draws, expect_hmc_transitions
from avb._errors import ConfigError
from avb.data._mnist import MNIST_NAMES
from avb.runs._methods import METHODS
from avb.training._config import FitConfig

Prior = Literal["normal", "flow", "kept"]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What to train on which data; with the data, all that decides a run's result.

    Attributes:
        data: digits, mnist, fashion-mnist, a .npy or .npz file, or a folder of images.
        data_dir: The folder of the IDX files, for mnist and fashion-mnist.
        method: A method's name; ``avb methods`` lists them.
        start_from: A run folder of the same method and networks, whose averaged networks take the
            place of random ones: for more epochs, another rate, or more importance samples.
            The optimisers are new, and there is no KL warm-up unless one is given.
        seed: Seed of the initial parameters and of training.
        latent_dim: Latent dimensions.
        prior: N(0, I); or a flow that is fitted to the posterior of the run to start from and then
            held fixed; or kept, the flow of the run to start from as it is. With any method but
            avb.
        network: Fully connected, or convolutional for images.
        width: Units of each hidden layer.
        depth: Hidden layers of the fully connected networks.
        channels: Of each convolution of the encoder, each of which halves height and width; the
            decoder has the same in reverse.
        noise_width: Units of each hidden layer between noise and draw, in avb and avb_adaptive
            (by default 128), sivi and avb_self (64).
        noise_depth: Hidden layers of that network, by default 2 and 1.
        noise_reach: How far that network may move a draw, in the posterior's scales, in
            avb_adaptive (by default 1) and avb (4). More fits better until the posterior folds,
            which avb diagnose sees.
        importance_samples: Posterior draws in the importance-weighted bound that training climbs
            in place of the ELBO, in any method but sivi; by default 5 in iwae, else 1. More gain
            likelihood and take longer.
        gradient_draws: How many of those draws go back through the networks, chosen by their
            weights; by default all. Fewer take less time a step, and noise is added.
        hmc_transitions: Hamiltonian transitions, of five leapfrog steps each, that move draws of
            the posterior towards p(z|x) before the model learns from them. A few gain likelihood
            at the end of training, with start_from. The ELBO may fall, and an epoch takes several
            times longer.
        likelihood: By default bernoulli for uint8 data, poisson for counts, else normal.
        num_classes: Classes of the categorical likelihood.
        fit: How to train.

    Raises:
        ConfigError: An unknown name, or a size out of range.
    """

    data: str
    data_dir: str | None = None
    method: str = "avb_adaptive"
    start_from: str | None = None
    seed: int = 0
    latent_dim: int = 8
    prior: Prior = "normal"
    network: Network = "mlp"
    width: int = 300
    depth: int = 2
    channels: tuple[int, ...] = Architecture.channels
    noise_width: int | None = None
    noise_depth: int | None = None
    noise_reach: float | None = None
    importance_samples: int | None = None
    gradient_draws: int | None = None
    hmc_transitions: int = 0
    likelihood: Likelihood | None = None
    num_classes: int = 256
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self):
        names = [info.name for info in METHODS]
        if self.method not in names:
            close = get_close_matches(self.method.lower().replace("-", "_"), names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"method: expected one of {', '.join(names)}, got {self.method!r}{hint}"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: expected 0 to 2^32 - 1, got {self.seed}")
        if self.num_classes < 2:
            raise ConfigError(f"num_classes: expected at least 2, got {self.num_classes}")
        self._check_importance_samples()
        self._check_gradient_draws()
        expect_hmc_transitions(self.hmc_transitions)
        self._check_prior()
        # Refused now rather than once the data are loaded.
        self.architecture((1,), likelihood=self.likelihood or "normal")

    def _check_importance_samples(self) -> None:
        if self.importance_samples is None:
            return
        if self.importance_samples < 1:
            raise ConfigError(
                f"importance_samples: expected at least 1, got {self.importance_samples}"
            )
        if self.importance_samples > 1 and self.method == "sivi":
            raise ConfigError(
                f"importance_samples: expected 1 with sivi, got {self.importance_samples}; use "
                "avb_self, whose critic learns what the weights need"
            )

    def _check_gradient_draws(self) -> None:
        if self.importance_samples is not None:
            expect_gradient_draws(self.gradient_draws, self.importance_samples)
        elif self.gradient_draws is not None:
            raise ConfigError("gradient_draws without importance_samples: give both or neither")

    def _check_prior(self) -> None:
        if self.prior not in get_args(Prior):
            raise ConfigError(
                f"prior: expected one of {', '.join(get_args(Prior))}, got {self.prior!r}"
            )
        if not self.has_flow_prior:
            return
        if self.method == "avb":
            raise ConfigError(
                "prior: expected normal with avb, whose critic compares with the prior, got "
                f"{self.prior!r}; use avb_adaptive"
            )
        if self.latent_dim < 2:
            raise ConfigError(
                f"a flow as prior: expected at least 2 latent dimensions, got {self.latent_dim}"
            )
        if self.start_from is None:
            raise ConfigError(
                "prior: a flow is fitted to the posterior of a trained run or kept from it, got no "
                "run to start from; train one first, and give it as start_from"
            )

    @property
    def has_flow_prior(self) -> bool:
        """Whether the prior is a flow, of this run or of the one that it starts from."""
        return self.prior != "normal"

    def architecture(
        self,
        data_shape: tuple[int, ...],
        *,
        likelihood: Likelihood,
        input_shift: float = 0.0,
        input_scale: float = 1.0,
    ) -> Architecture:
        """The networks, once the data have told what is missing."""
        return Architecture(
            data_shape,
            latent_dim=self.latent_dim,
            network=self.network,
            width=self.width,
            depth=self.depth,
            channels=self.channels,
            noise_width=self.noise_width,
            noise_depth=self.noise_depth,
            noise_reach=self.noise_reach,
            likelihood=likelihood,
            num_classes=self.num_classes,
            input_shift=input_shift,
            input_scale=input_scale,
        )

    def settled(self) -> "RunConfig":
        """The same with absolute paths, so that the run can go on from another folder.

        Without KL warm-up where it starts from a run, unless one is given.
        """
        is_name = self.data == "digits" or self.data in MNIST_NAMES
        # What does not exist is refused later, under the name that the user gave.
        is_path = not is_name and Path(self.data).exists()
        data = str(Path(self.data).absolute()) if is_path else self.data
        data_dir = self.data_dir and str(Path(self.data_dir).absolute())
        if self.start_from is None:
            return dataclasses.replace(self, data=data, data_dir=data_dir)
        warmup = self.fit.kl_warmup or 0.0
        return dataclasses.replace(
            self,
            data=data,
            data_dir=data_dir,
            start_from=str(Path(self.start_from).absolute()),
            fit=dataclasses.replace(self.fit, kl_warmup=warmup),
        )


def config_from_json(values: dict[str, Any]) -> RunConfig:
    """The settings that ``dataclasses.asdict`` gave.

    Raises:
        TypeError: A setting is missing or unknown.
        ConfigError: A setting is out of range.
    """
    values = {**values, "fit": FitConfig(**values["fit"])}
    if "channels" in values:
        values["channels"] = tuple(values["channels"])
    return RunConfig(**values)


def differences(folder: RunConfig, asked: RunConfig) -> list[str]:
    """The settings in which two configurations differ, in words."""
    ours, theirs = (
        {**dataclasses.asdict(config), **dataclasses.asdict(config.fit)}
        for config in (folder, asked)
    )
    return [
        f"{name}: {ours[name]} in the folder, {theirs[name]} asked for"
        for name in ours
        if name != "fit" and ours[name] != theirs[name]
    ]
