"""The four-point toy's data, model, exact evidence, and the methods that are compared on it."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avb import FitConfig, Method
from avb._types import Key, Latent
from avb.contrasts import (
    AnchoredMomentContrast,
    AnchoredSelfContrast,
    GaussianContrast,
    PriorContrast,
    SelfContrast,
)
from avb.critics import ResidualCritic
from avb.models import Bernoulli, LatentVariableModel
from avb.models._latent import standard_normal
from avb.nets import MLPDecoder, MLPEncoder
from avb.objectives import Logistic, WeightedLogistic
from avb.posteriors import (
    FlowPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    SemiImplicitPosterior,
)

DATA = np.eye(4, dtype=np.float32)
LATENT = 2
FEATURES = 32
# Few draws and many steps: at equal cost 16 draws a datum end 0.01 nats above 64.
DRAWS = 16
CONTRAST_DRAWS = 16
SELF_DRAWS = 32
SELF_COMPONENTS = 512
STEEPNESS = 4.0
FLOW_LAYERS = 8


class SteepDecoder(eqx.Module):
    """Logits that are a multiple of a network's: edges of width 0.01 ask for slopes of hundreds."""

    network: MLPDecoder

    def __call__(self, z: Latent):
        return STEEPNESS * self.network(z)


def build_model(key: Key) -> LatentVariableModel:
    """Standard normal prior and independent Bernoulli pixels."""
    decoder = SteepDecoder(MLPDecoder(LATENT, (1, 4), width=64, depth=3, key=key))
    return LatentVariableModel(standard_normal(LATENT), decoder, Bernoulli(), (4,))


def gaussian(key: Key) -> Method:
    """A plain variational autoencoder."""
    key_model, key_encoder, key_posterior = jax.random.split(key, 3)
    encoder = MLPEncoder((4,), width=FEATURES, depth=1, key=key_encoder)
    shapes = {"data_shape": (4,), "latent_dim": LATENT}
    posterior = GaussianPosterior(encoder, **shapes, key=key_posterior)
    return Method(build_model(key_model), posterior, posterior_draws=DRAWS)


def flow(key: Key) -> Method:
    """Affine coupling layers, whose density is exact: no critic."""
    key_model, key_encoder, key_posterior = jax.random.split(key, 3)
    encoder = MLPEncoder((4,), width=FEATURES, depth=1, key=key_encoder)
    shapes = {"data_shape": (4,), "latent_dim": LATENT}
    posterior = FlowPosterior(encoder, **shapes, layers=FLOW_LAYERS, width=48, key=key_posterior)
    return Method(build_model(key_model), posterior, posterior_draws=DRAWS)


def self_contrast(key: Key) -> Method:
    """Semi-implicit, the mixture over even points in place of q, no critic."""
    method = semi_implicit_critic(key)
    contrast = SelfContrast(SELF_COMPONENTS, even=True)
    return Method(method.model, method.posterior, contrast, posterior_draws=SELF_DRAWS)


def semi_implicit_critic(key: Key) -> Method:
    """The posterior of the self contrast with a critic over the prior."""
    keys = jax.random.split(key, 4)
    encoder = MLPEncoder((4,), width=FEATURES, depth=1, key=keys[1])
    shapes = {"data_shape": (4,), "latent_dim": LATENT}
    posterior = SemiImplicitPosterior(
        encoder, **shapes, noise_dim=2, width=48, depth=2, key=keys[2]
    )
    return _with_critic(build_model(keys[0]), posterior, keys[3])


def critic(key: Key) -> Method:
    """Implicit posterior, logistic critic over the prior: AVB as first published."""
    keys = jax.random.split(key, 4)
    encoder = MLPEncoder((4,), width=FEATURES, depth=1, key=keys[1])
    shapes = {"data_shape": (4,), "latent_dim": LATENT}
    posterior = ImplicitPosterior(encoder, **shapes, noise_dim=4, width=48, depth=2, key=keys[2])
    return _with_critic(build_model(keys[0]), posterior, keys[3])


def anchored_critic(key: Key) -> Method:
    """The same over the Gaussian with the posterior's moments at fixed noise."""
    method = critic(key)
    assert isinstance(method.posterior, ImplicitPosterior)
    contrast = AnchoredMomentContrast(method.posterior.noise_size)
    return eqx.tree_at(lambda m: m.contrast, method, contrast)


def semi_implicit_learned(key: Key) -> Method:
    """The same over a Gaussian that is fitted to draws of q."""
    key, key_contrast = jax.random.split(key)
    contrast = GaussianContrast(FEATURES, LATENT, key=key_contrast)
    return eqx.tree_at(lambda m: m.contrast, semi_implicit_critic(key), contrast)


def semi_implicit_many(key: Key) -> Method:
    """A learned Gaussian, many contrast draws a draw of q, and a logistic loss that weighs them."""
    return dataclasses.replace(
        semi_implicit_learned(key), objective=WeightedLogistic(), contrast_draws=CONTRAST_DRAWS
    )


def semi_implicit_wide(key: Key) -> Method:
    """The same with a critic of twice the width and a block more."""
    key, key_critic = jax.random.split(key)
    network = ResidualCritic(FEATURES, LATENT, width=128, depth=3, key=key_critic)
    return eqx.tree_at(lambda m: m.critic, semi_implicit_learned(key), network)


def semi_implicit_self(key: Key) -> Method:
    """The same over a mixture of conditionals at fixed noise."""
    method = semi_implicit_critic(key)
    assert isinstance(method.posterior, SemiImplicitPosterior)
    contrast = AnchoredSelfContrast(method.posterior.noise_dim, num_components=SELF_COMPONENTS)
    return eqx.tree_at(lambda m: m.contrast, method, contrast)


def _with_critic(model: LatentVariableModel, posterior, key: Key) -> Method:
    network = ResidualCritic(FEATURES, LATENT, width=64, depth=2, key=key)
    return Method(model, posterior, PriorContrast(), network, Logistic(), posterior_draws=DRAWS)


@eqx.filter_jit
def log_evidence(model: LatentVariableModel, data, half: float = 6.0, points: int = 1200):
    """Log p(x) of each datum, by the midpoint rule over a square of two latent dimensions."""
    side = 2.0 * half / points
    ticks = -half + side * (jnp.arange(points) + 0.5)

    def row(first):
        z = jnp.stack([jnp.full(points, first), ticks], axis=1)
        logs = jax.vmap(lambda x: jax.vmap(lambda z: model.log_joint(x, z))(z))(data)
        return jax.nn.logsumexp(logs, axis=1)

    rows = lax.map(row, ticks)
    return jax.nn.logsumexp(rows, axis=0) + 2.0 * jnp.log(side)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one method is trained and measured.

    Attributes:
        title: Its name in the table.
        make: The method from a key.
        steps: Training steps.
        rate: Adam's peak rate of model and posterior.
        critic_rate: That of the critic.
        momentum: Adam's first moment.
        components: Components of the mixture in the bounds; the narrower the conditionals, the
            more it takes.
        warmup: Share of the steps over which the weight of KL(q‖p) rises from 0 to 1.
        traced: See :func:`~experiments._seeds.train_seeds`.
    """

    title: str
    make: Callable[[Key], Method]
    steps: int
    rate: float
    critic_rate: float = 2e-3
    momentum: float = 0.9
    components: int = 2**18
    warmup: float = 0.0
    traced: bool = True

    def fit_config(self, share: float) -> FitConfig:
        """The library's settings, for a share of the steps."""
        steps = int(self.steps * share)
        return FitConfig(
            epochs=steps,
            batch_size=4,
            learning_rate=self.rate,
            critic_learning_rate=self.critic_rate,
            momentum=self.momentum,
            final_rate=0.01,
            critic_final_rate=0.01,
            kl_warmup=self.warmup * steps,
        )


RECIPES = {
    "gaussian": Recipe("Gaussian VAE", gaussian, 5000, 3e-3),
    "flow": Recipe("flow, KL warm-up", flow, 50000, 2e-3, warmup=0.4, traced=False),
    "self": Recipe("self contrast", self_contrast, 48000, 6e-3),
    "critic": Recipe("critic, implicit", critic, 25000, 2e-3, 4e-3, 0.0),
    "critic-anchored": Recipe(
        "critic, implicit, moments at fixed noise", anchored_critic, 50000, 2e-3, 4e-3, 0.0
    ),
    "critic-semi": Recipe(
        "critic, semi-implicit", semi_implicit_critic, 40000, 2e-3, 4e-3, 0.0, components=2**20
    ),
    "critic-self": Recipe(
        "critic, semi-implicit, conditionals at fixed noise",
        semi_implicit_self,
        48000,
        3e-3,
        6e-3,
        0.0,
        components=2**20,
    ),
    "critic-semi-learned": Recipe(
        "critic, semi-implicit, learned Gaussian",
        semi_implicit_learned,
        50000,
        2e-3,
        4e-3,
        0.0,
        components=2**20,
    ),
    "critic-semi-learned-slow": Recipe(
        "critic, semi-implicit, learned Gaussian, half the rates, twice the steps",
        semi_implicit_learned,
        100000,
        1e-3,
        2e-3,
        0.0,
        components=2**20,
    ),
    "critic-semi-learned-wide": Recipe(
        "critic of 3 × 128 units, semi-implicit, learned Gaussian",
        semi_implicit_wide,
        50000,
        2e-3,
        4e-3,
        0.0,
        components=2**20,
    ),
    "critic-semi-learned-warm": Recipe(
        "critic, semi-implicit, learned Gaussian, KL warm-up, three times the steps",
        semi_implicit_learned,
        150000,
        1.5e-3,
        3e-3,
        0.0,
        components=2**20,
        warmup=0.4,
    ),
    "critic-semi-learned-ahead": Recipe(
        "critic, semi-implicit, learned Gaussian, KL warm-up, six times the steps, "
        "critic at four times the model's rate",
        semi_implicit_learned,
        300000,
        0.75e-3,
        3e-3,
        0.0,
        components=2**20,
        warmup=0.4,
    ),
    "critic-semi-learned-16": Recipe(
        "critic, semi-implicit, learned Gaussian, 16 contrast draws",
        semi_implicit_many,
        50000,
        2e-3,
        4e-3,
        0.0,
        components=2**20,
    ),
}
