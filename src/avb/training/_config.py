"""Settings of a training run. Imports no JAX, so that the command line starts quickly."""

import dataclasses
import math

from avb._errors import ConfigError

KL_WARMUP_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to train; the defaults suit all presets.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Data a step.
        learning_rate: Adam's peak rate for model and posterior.
        critic_learning_rate: Adam's peak rate for critic and learned contrast.
        momentum: Adam's β1, of both players. Where a critic plays, its momentum overshoots: 0.5
            trains the four-point toy at rates at which 0.9 diverges (``docs/findings/toys.md``).
        final_rate: The rate of model and posterior falls along a cosine to this share of its peak.
        critic_final_rate: The rate of critic and contrast falls to this share. One as low as the
            others' leaves the critic behind a posterior that bends until late
            (``docs/findings/sensitivity.md``).
        critic_steps: Critic updates a model update.
        critic_warmup: Steps in which only critic and contrast learn.
        kl_warmup: Epochs over which the weight of log p(z) − log q(z|x) rises from 0 to 1; by
            default a fifth of all. Without one, latent dimensions are given up early that would
            have been of use later (``docs/findings/folding.md``).
        clip_norm: Each player's gradient is scaled down to at most this global norm.
        ema_decay: Decay a step of the parameter average that is evaluated; 0 turns it off.
        max_skipped: Training stops after this many non-finite steps in a row.
    """

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3
    critic_learning_rate: float = 2e-3
    momentum: float = 0.9
    final_rate: float = 0.05
    critic_final_rate: float = 0.3
    critic_steps: int = 1
    critic_warmup: int = 0
    kl_warmup: float | None = None
    clip_norm: float = 500.0
    ema_decay: float = 0.999
    max_skipped: int = 20

    def __post_init__(self):
        for name in ("epochs", "batch_size", "critic_steps", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "critic_learning_rate", "clip_norm"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name}: expected a positive number, got {value}")
        for name in ("critic_warmup", "kl_warmup"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name}: expected zero or more, got {value}")
        for name in ("ema_decay", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a number in [0, 1), got {getattr(self, name)}")
        for name in ("final_rate", "critic_final_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected a number in (0, 1], got {getattr(self, name)}")

    @property
    def kl_warmup_epochs(self) -> float:
        """The length of the KL warm-up, given or by default."""
        return KL_WARMUP_SHARE * self.epochs if self.kl_warmup is None else self.kl_warmup
