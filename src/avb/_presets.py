"""Presets: plain functions that put ordinary parts together, all on the same networks."""

from collections.abc import Callable

import jax

from avb._architecture import Architecture
from avb._method import Method
from avb._types import Key
from avb.contrasts import (
    AnchoredMomentContrast,
    AnchoredSelfContrast,
    PriorContrast,
    SelfContrast,
)
from avb.critics import ResidualCritic
from avb.densities._scale import MAX_SHIFT
from avb.objectives import Logistic, WeightedLogistic
from avb.posteriors import (
    FlowPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    SemiImplicitPosterior,
)

# Contrast draws cost the critic little, since they share its features of the datum, and
# make its gradient less noisy.
CONTRAST_DRAWS = 4
# Without one, posteriors in many dimensions fold into sheets that no critic sees.
FLOOR = 0.3
# With more, larger networks outgrow the floor and fold: 500 units at 8 dimensions, 300 at 32.
REACH = 1.0


def _split(architecture: Architecture, key: Key) -> tuple:
    """Model and encoder from the same keys in every preset, and keys for the rest."""
    key_model, key_encoder, key_posterior, key_contrast, key_critic = jax.random.split(key, 5)
    model = architecture.build_model(key=key_model)
    encoder = architecture.build_encoder(key=key_encoder)
    shapes = {"data_shape": architecture.data_shape, "latent_dim": architecture.latent_dim}
    return model, encoder, shapes, key_posterior, key_contrast, key_critic


def gaussian_vae(architecture: Architecture, *, key: Key) -> Method:
    """A plain variational autoencoder: diagonal Gaussian posterior, exact ELBO.

    References:
        Kingma & Welling (2014), https://arxiv.org/abs/1312.6114.
    """
    model, encoder, shapes, key_posterior, _, _ = _split(architecture, key)
    return Method(model, GaussianPosterior(encoder, **shapes, key=key_posterior))


def iwae(architecture: Architecture, *, importance_samples: int = 5, key: Key) -> Method:
    """Diagonal Gaussian posterior trained on the importance-weighted bound.

    References:
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519; the posterior's
        gradient is that of Tucker, Lawson, Gu & Maddison (2019), https://arxiv.org/abs/1810.04152.
    """
    model, encoder, shapes, key_posterior, _, _ = _split(architecture, key)
    posterior = GaussianPosterior(encoder, **shapes, key=key_posterior)
    return Method(model, posterior, importance_samples=importance_samples)


def flow_vae(architecture: Architecture, *, key: Key) -> Method:
    """Conditional coupling-flow posterior, exact ELBO.

    References:
        Rezende & Mohamed (2015), https://arxiv.org/abs/1505.05770.
    """
    model, encoder, shapes, key_posterior, _, _ = _split(architecture, key)
    return Method(model, FlowPosterior(encoder, **shapes, key=key_posterior))


def sivi(architecture: Architecture, *, num_components: int = 16, key: Key) -> Method:
    """Semi-implicit posterior with self contrast and no critic: a lower bound of the ELBO.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183.
    """
    model, encoder, shapes, key_posterior, _, _ = _split(architecture, key)
    shapes |= architecture.noise_sizes
    posterior = SemiImplicitPosterior(encoder, **shapes, key=key_posterior)
    return Method(model, posterior, SelfContrast(num_components))


def avb(architecture: Architecture, *, key: Key) -> Method:
    """Implicit posterior, prior contrast, logistic critic: AVB as first published.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, algorithm 1.
    """
    model, encoder, shapes, key_posterior, _, key_critic = _split(architecture, key)
    shapes |= architecture.noise_sizes
    reach = architecture.noise_reach or MAX_SHIFT
    posterior = ImplicitPosterior(encoder, **shapes, reach=reach, key=key_posterior)
    critic = ResidualCritic(architecture.width, architecture.latent_dim, key=key_critic)
    return Method(model, posterior, PriorContrast(), critic, Logistic())


def avb_adaptive(architecture: Architecture, *, floor: float = FLOOR, key: Key) -> Method:
    """Implicit posterior, Gaussian contrast with its moments, weighted logistic critic.

    Args:
        architecture: Networks and likelihood. A ``noise_reach`` above the default 1 gains up to
            0.4 nats where nothing folds; watch :func:`avb.evaluation.thickness`.
        floor: Gaussian noise added to the posterior's draws, in units of its scales, in place of
            half of the noise that the network bends; see :class:`ImplicitPosterior`.
        key: PRNG key.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, section 3.3;
        the contrast's moments are taken at fixed noise instead of at random draws.
    """
    model, encoder, shapes, key_posterior, _, key_critic = _split(architecture, key)
    shapes |= architecture.noise_sizes
    if floor:
        shapes |= {"noise_dim": architecture.latent_dim, "floor": floor}
    reach = architecture.noise_reach or REACH
    posterior = ImplicitPosterior(encoder, **shapes, reach=reach, key=key_posterior)
    contrast = AnchoredMomentContrast(posterior.noise_size)
    critic = ResidualCritic(architecture.width, architecture.latent_dim, key=key_critic)
    return Method(
        model, posterior, contrast, critic, WeightedLogistic(), contrast_draws=CONTRAST_DRAWS
    )


def avb_self(architecture: Architecture, *, num_components: int = 16, key: Key) -> Method:
    """Semi-implicit posterior, self contrast with fixed noise, logistic critic for the rest."""
    model, encoder, shapes, key_posterior, _, key_critic = _split(architecture, key)
    shapes |= architecture.noise_sizes
    posterior = SemiImplicitPosterior(encoder, **shapes, key=key_posterior)
    contrast = AnchoredSelfContrast(posterior.noise_dim, num_components=num_components)
    critic = ResidualCritic(architecture.width, architecture.latent_dim, key=key_critic)
    return Method(model, posterior, contrast, critic, Logistic())


PRESETS: dict[str, Callable[..., Method]] = {
    preset.__name__: preset
    for preset in (gaussian_vae, iwae, flow_vae, avb, avb_adaptive, sivi, avb_self)
}
