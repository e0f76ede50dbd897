"""Three problems small enough for a grid, each with a measure of quality that asks no critic."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats
from jaxtyping import Array, Int32

import avb
from avb import FitConfig, Method
from avb._presets import CONTRAST_DRAWS
from avb._types import Datum, Features, Key, Latent
from avb.contrasts import AbstractContrast, AnchoredMomentContrast, GaussianContrast, PriorContrast
from avb.critics import ResidualCritic
from avb.models import FamilyLikelihood, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import ImplicitPosterior
from avb.posteriors._base import feature_size
from avb.training import DeviceData
from avb.training._batches import Encoding
from experiments import _four_point as four_point
from experiments._grid import PRESET, Cell, Chosen, Structure
from experiments._standardised import standardised
from experiments.multimodal import banana

DIGITS_DIM = 8
DIGITS_WIDTH = 300
HELD_OUT_SAMPLES = 200
BANANA_FEATURES = 64
BANANA_DRAWS = 64
COUNTED_DRAWS = 2**18
CELL = 0.2
EDGE = 6.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained, and how it is judged.

    Attributes:
        title: In words.
        default: The recipe that the grid varies.
        critic_width: Its critic's hidden units.
        base: Model and posterior from a key, in a method whose adversary is replaced.
        fit: Settings of training.
        data: Training data.
        encoding: How they are used.
        quality: In nats per datum, the larger the better, of a trained method.
        tolerance: Nats below the best cell from which on a run has failed.
        measure: What the quality is, in words.
    """

    title: str
    default: Cell
    critic_width: int
    base: Callable[[Key], Method]
    fit: FitConfig
    data: Callable[[], np.ndarray]
    encoding: Encoding
    quality: Callable[[Method], float]
    tolerance: float
    measure: str

    def device_data(self) -> DeviceData:
        """The training data on the device."""
        return DeviceData(self.data(), self.encoding, self.fit.batch_size)

    def maker(self, structure: Structure) -> Callable[[Key, Int32[Array, ""]], Method]:
        """The method from a key and the number of its objective."""

        def make(key: Key, objective: Int32[Array, ""]) -> Method:
            key_base, key_contrast, key_critic = jax.random.split(key, 3)
            method = self.base(key_base)
            features = feature_size(method.posterior.encoder, method.model.data_shape)
            return dataclasses.replace(
                method,
                contrast=build_contrast(structure.contrast, method, features, key_contrast),
                critic=ResidualCritic(
                    features,
                    method.model.latent_dim,
                    width=round(self.critic_width * structure.width),
                    key=key_critic,
                ),
                objective=Chosen(objective),
                contrast_draws=CONTRAST_DRAWS,
            )

        return make


def build_contrast(name: str, method: Method, features: int, key: Key) -> AbstractContrast:
    """One of the grid's contrasts, to fit a method's posterior."""
    assert isinstance(method.posterior, ImplicitPosterior)
    if name == "prior":
        return PriorContrast()
    if name == "learned Gaussian":
        return GaussianContrast(features, method.model.latent_dim, key=key)
    return AnchoredMomentContrast(method.posterior.noise_size)


def toy_quality(method: Method) -> float:
    """Mean log p(x) of the four points, by quadrature."""
    logs = four_point.log_evidence(method.model, jnp.asarray(four_point.DATA), points=600)
    return float(np.asarray(logs, np.float64).mean())


def banana_decode(z: Latent) -> Datum:
    """What multiplies the prior N(0, I) into the banana's density."""
    return (banana().log_density(z) - standard_normal(2).log_prob(z))[None, None]


def nothing(x: Datum) -> Features:
    """The features of a datum that never changes."""
    return jnp.zeros(BANANA_FEATURES)


def banana_base(key: Key) -> Method:
    """The banana as a model of one datum, with an implicit posterior."""
    likelihood = FamilyLikelihood(lambda p: dist.Unit(p[0]), 1)
    model = LatentVariableModel(standard_normal(2), banana_decode, likelihood, (1,))
    posterior = ImplicitPosterior(
        nothing, data_shape=(1,), latent_dim=2, noise_dim=4, width=64, key=key
    )
    return _any_adversary(model, posterior, BANANA_DRAWS, BANANA_FEATURES)


def _any_adversary(
    model: LatentVariableModel, posterior: ImplicitPosterior, draws: int, features: int
) -> Method:
    critic = ResidualCritic(features, model.latent_dim, key=jax.random.key(0))
    chosen = Chosen(jnp.asarray(0))
    return Method(model, posterior, PriorContrast(), critic, chosen, posterior_draws=draws)


@eqx.filter_jit
def straightened(posterior: ImplicitPosterior, key: Key):
    """Draws in coordinates in which the banana is N(0, I)."""
    z = posterior.sample(key, jnp.zeros(1), (COUNTED_DRAWS,))
    bent = z[:, 1] - 0.5 * (z[:, 0] ** 2 - 4.0)
    return jnp.stack([z[:, 0] / 2.0, bent / 0.5], axis=1)


def divergence_from_normal(u: np.ndarray) -> float:
    """KL(q‖N(0, I)) of draws in two dimensions over square cells of side 0.2.

    Over cells a divergence is at most what it is in full. The estimate's bias of (occupied
    cells − 1) / 2n is subtracted (Miller 1955); draws beyond 6 count in the outermost cells.
    """
    ticks = np.linspace(-EDGE, EDGE, round(2 * EDGE / CELL) + 1)
    ticks[[0, -1]] = -np.inf, np.inf
    sides = np.diff(scipy.stats.norm.cdf(ticks))
    index = np.clip(np.searchsorted(ticks, u, side="right") - 1, 0, len(sides) - 1)
    counts = np.zeros((len(sides), len(sides)))
    np.add.at(counts, (index[:, 0], index[:, 1]), 1.0)
    share, known = counts / len(u), np.outer(sides, sides)
    met = share > 0
    plain = np.sum(share[met] * np.log(share[met] / known[met]))
    return float(plain - (met.sum() - 1) / (2 * len(u)))


def banana_quality(method: Method) -> float:
    """The ELBO, −KL(q‖p) since log Z = 0; not a number where a draw is not finite."""
    u = np.asarray(straightened(method.posterior, jax.random.key(7)), np.float64)
    return -divergence_from_normal(u) if np.isfinite(u).all() else float("nan")


@functools.cache
def digits() -> avb.Dataset:
    return avb.load_dataset("digits")


def digits_base(key: Key) -> Method:
    """The preset at its defaults."""
    architecture = standardised(digits().train, latent_dim=DIGITS_DIM, width=DIGITS_WIDTH)
    return avb.avb_adaptive(architecture, key=key)


def digits_quality(method: Method) -> float:
    """A lower bound of log p(x) on all validation images, by importance weighting."""
    held_out = avb.binarise_once(digits().validation, seed=1)
    bound = avb.importance_bound(
        method.model,
        method.posterior,
        held_out,
        key=jax.random.key(7),
        samples=HELD_OUT_SAMPLES,
        batch_size=100,
    )
    return bound.mean


TOY = four_point.RECIPES["critic"]
PROBLEMS = {
    "toy": Problem(
        title="four points",
        default=PRESET,
        critic_width=64,
        base=four_point.critic,
        fit=dataclasses.replace(TOY.fit_config(1.0), epochs=1000),
        data=lambda: four_point.DATA,
        encoding="real",
        quality=toy_quality,
        tolerance=0.3,
        measure="mean log p(x), by quadrature",
    ),
    "banana": Problem(
        title="banana",
        default=PRESET,
        critic_width=64,
        base=banana_base,
        fit=FitConfig(
            epochs=1000,
            batch_size=1,
            learning_rate=3e-3,
            critic_learning_rate=6e-3,
            momentum=0.0,
            final_rate=0.01,
            critic_final_rate=0.01,
            kl_warmup=0.0,
        ),
        data=lambda: np.zeros((1, 1), np.float32),
        encoding="real",
        quality=banana_quality,
        tolerance=1.0,
        measure="ELBO, log Z = 0 less KL(q‖p) over cells",
    ),
    "digits": Problem(
        title="digits",
        default=PRESET,
        critic_width=128,
        base=digits_base,
        fit=FitConfig(),
        data=lambda: digits().train,
        encoding="binarise",
        quality=digits_quality,
        tolerance=1.0,
        measure="log p(x) ≥, by importance weighting, on validation images",
    ),
}
