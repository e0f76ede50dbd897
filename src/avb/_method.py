"""A model and its posterior, and how the posterior's density is stood in for."""

import equinox as eqx
import jax
import jax.numpy as jnp

from avb._check import expect_equal, expect_gradient_draws, expect_hmc_transitions
from avb._errors import ConfigError
from avb.contrasts import AbstractContrast, AnchoredSelfContrast, PriorContrast, SelfContrast
from avb.critics import AbstractCritic
from avb.models import FlowPrior, LatentVariableModel
from avb.objectives import AbstractObjective
from avb.posteriors import (
    AbstractPosterior,
    AbstractTractablePosterior,
    SemiImplicitPosterior,
)
from avb.posteriors._base import feature_size


class Method(eqx.Module):
    """The parts of one way to train p(x, z) and q(z|x) together.

    Which bound training climbs follows from the parts:

    ============================  ====================================================
    parts                         log q(z|x) in the ELBO
    ============================  ====================================================
    tractable posterior alone     exact; with ``importance_samples`` > 1 the bound of
                                  Burda, Grosse & Salakhutdinov (2016)
    ``SelfContrast``, no critic   a mixture of conditionals, a lower bound of the ELBO
                                  (Yin & Zhou 2018)
    contrast, critic, objective   log r(z|x) + T(x, z): an estimate, not a bound
                                  (Mescheder, Nowozin & Geiger 2017, eq. 3.8); with
                                  ``importance_samples`` > 1 the weighted bound with it
    ============================  ====================================================

    Args:
        model: p(x, z).
        posterior: q(z|x).
        contrast: r(z|x), if any.
        critic: T(x, z), if any.
        objective: What the critic minimises.
        importance_samples: Draws in the importance-weighted bound; 1 gives the ELBO. With a
            critic, which learns from one of them alone, the weights are estimates. The model gains
            likelihood, and the posterior grows wider than the one nearest to p(z|x).
        gradient_draws: How many of those draws go back through the networks, chosen by their
            weights; by default all, by which the gradient is less noisy, and a step takes longer.
        contrast_draws: Draws of r a posterior draw for the critic.
        fit_draws: Draws of q a posterior draw that a learned contrast is fitted to, all but one of
            them for that alone: its parameters then follow q with less noise, and bear a higher
            ``critic_learning_rate``.
        posterior_draws: Draws of q a datum in each step. They share the datum's features and
            the components of a self contrast: with few data, or few in a batch, more draws
            cost less than repeated data and make the gradient as much less noisy.
        hmc_transitions: Transitions of Hamiltonian Monte Carlo, of five leapfrog steps each, that
            move draws of q towards p(z|x) before the model learns from them (Hoffman 2017). The
            model then climbs log p(x) itself, as far as they arrive; the posterior learns from the
            bound, as without, and the bound may fall. With 0 both learn from it.

    Raises:
        ConfigError: Parts that do not fit each other; the message names the mend.
    """

    model: LatentVariableModel
    posterior: AbstractPosterior
    contrast: AbstractContrast | SelfContrast | None = None
    critic: AbstractCritic | None = None
    objective: AbstractObjective | None = None
    importance_samples: int = eqx.field(static=True, default=1)
    gradient_draws: int | None = eqx.field(static=True, default=None)
    contrast_draws: int = eqx.field(static=True, default=1)
    fit_draws: int = eqx.field(static=True, default=1)
    posterior_draws: int = eqx.field(static=True, default=1)
    hmc_transitions: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        expect_equal(
            "latent dimensions of the posterior", self.model.latent_dim, self.posterior.latent_dim
        )
        feature_size(self.posterior.encoder, self.model.data_shape)
        for name in ("importance_samples", "contrast_draws", "fit_draws", "posterior_draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        expect_gradient_draws(self.gradient_draws, self.importance_samples)
        expect_hmc_transitions(self.hmc_transitions)
        self._check_fit_draws()
        if self.critic is None:
            self._check_without_critic()
        else:
            self._check_with_critic()

    def _check_without_critic(self) -> None:
        name = type(self.posterior).__name__
        tractable = isinstance(self.posterior, AbstractTractablePosterior)
        if self.objective is not None:
            raise ConfigError("an objective without a critic: give both or neither")
        if isinstance(self.contrast, AbstractContrast):
            raise ConfigError(
                f"{type(self.contrast).__name__} without a critic is not a bound on the ELBO: "
                "give a critic and an objective, or use SelfContrast with a semi-implicit posterior"
            )
        if self.contrast is None and not tractable:
            raise ConfigError(
                f"{name} has no density: expected a contrast with a critic, or SelfContrast for a "
                "semi-implicit posterior, got neither"
            )
        if isinstance(self.contrast, SelfContrast) and not isinstance(
            self.posterior, SemiImplicitPosterior
        ):
            raise ConfigError(f"SelfContrast: expected a SemiImplicitPosterior, got {name}")
        if self.importance_samples > 1 and not (tractable and self.contrast is None):
            raise ConfigError(
                f"importance_samples = {self.importance_samples} needs a posterior with a density "
                f"and no contrast, or a critic, got {name} and neither; use GaussianPosterior or "
                "FlowPosterior, or AnchoredSelfContrast and a critic"
            )

    def _check_fit_draws(self) -> None:
        learned = isinstance(self.contrast, AbstractContrast) and self.contrast.is_learned
        if self.fit_draws > 1 and not learned:
            name = "none" if self.contrast is None else type(self.contrast).__name__
            raise ConfigError(
                f"fit_draws = {self.fit_draws}: expected a contrast that is fitted to draws "
                f"(GaussianContrast, MixtureContrast or FlowContrast), got {name}"
            )

    def _check_with_critic(self) -> None:
        if not isinstance(self.contrast, AbstractContrast):
            raise ConfigError(
                "a critic needs a contrast that is a density of z: expected "
                "AnchoredMomentContrast, AnchoredSelfContrast, GaussianContrast, "
                "MixtureContrast, FlowContrast, MomentContrast or PriorContrast, "
                f"got {'none' if self.contrast is None else type(self.contrast).__name__}"
            )
        if self.objective is None:
            raise ConfigError(
                "a critic needs an objective: KLDual, Logistic, WeightedLogistic, "
                "DonskerVaradhan or LeastSquares"
            )
        if isinstance(self.contrast, PriorContrast) and isinstance(self.model.prior, FlowPrior):
            raise ConfigError(
                "PriorContrast: expected a prior with a mean and a variance, by which the critic's "
                "input is whitened, got FlowPrior; use AnchoredMomentContrast"
            )
        if isinstance(self.contrast, AnchoredSelfContrast):
            if not isinstance(self.posterior, SemiImplicitPosterior):
                raise ConfigError(
                    "AnchoredSelfContrast: expected a SemiImplicitPosterior, "
                    f"got {type(self.posterior).__name__}"
                )
            expect_equal(
                "noise variables of the self contrast",
                self.posterior.noise_dim,
                self.contrast.anchors.shape[1],
            )
        self._check_shapes_of_critic()

    def _check_shapes_of_critic(self) -> None:
        """A critic or contrast of other sizes fails here, not inside a compiled step."""

        def value(method: "Method", x, z, key):
            assert isinstance(method.contrast, AbstractContrast)
            assert method.critic is not None
            features = method.posterior.encoder(x)
            density = method.contrast.condition(
                method.posterior, method.model.fixed_prior, features, key
            )
            seen = method.critic.features(x, features)
            return method.critic.evaluate(seen, density.whiten(z))

        x = jax.ShapeDtypeStruct(self.model.data_shape, jnp.float32)
        z = jax.ShapeDtypeStruct((self.model.latent_dim,), jnp.float32)
        try:
            out = eqx.filter_eval_shape(value, self, x, z, jax.random.key(0))
        except TypeError as error:
            size = feature_size(self.posterior.encoder, self.model.data_shape)
            raise ConfigError(
                f"the critic or the contrast does not fit the posterior: expected {size} features "
                f"and {self.model.latent_dim} latent dimensions ({error})"
            ) from error
        expect_equal("shape of the critic's output", (), out.shape)
