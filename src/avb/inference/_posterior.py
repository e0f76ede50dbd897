"""The result: draws in the model's own terms, bounds, a verdict, and a file to keep it in."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from avb._errors import ConfigError
from avb._types import Key, Latent
from avb.inference._framed import FramedDensity, FramedSampler
from avb.inference._measure import Bracket, Importance, Weighed, weigh
from avb.inference._methods import MethodName, as_model, no_data
from avb.inference._mixture import ImplicitMixture
from avb.inference._pairs import draw_site_pairs
from avb.inference._resample import choose, warn_if_untrusted
from avb.inference._restarts import Agreement
from avb.inference._row_fit import RowFit, sample_rows
from avb.inference._stretches import Trained
from avb.inference._summary import as_text, summary_rows
from avb.inference._target import Sites, Target
from avb.inference._verdict import Verdict

if TYPE_CHECKING:
    from xarray import DataTree

    from avb.evaluation import Estimate
    from avb.evaluation._fresh import FreshCritics

Approximation = ImplicitMixture | FramedDensity | FramedSampler
CHUNK = 1000
SUMMARY_DRAWS = 4000


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a posterior came about.

    Attributes:
        modes: Parts of the mixture.
        weights: Their weights.
        starts: Gaussian fits tried.
        failed: Of those, the ones that failed.
        steps: Training steps.
        lost: Share of draws at which log p or its gradient was not finite.
        skipped: Steps skipped for a gradient that was not finite.
        seconds: Wall time of the run, compilation included.
        method: The method of inference.
        agreement: Of several restarts; ``None`` if there was one.
    """

    modes: int
    weights: tuple[float, ...]
    starts: int
    failed: int
    steps: int
    lost: float
    skipped: int
    seconds: float
    method: MethodName = "self"
    agreement: Agreement | None = None

    @classmethod
    def of_mixture(
        cls,
        trained: Trained,
        *,
        starts: int,
        failed: int,
        seconds: float,
        agreement: Agreement | None = None,
    ) -> "Fit":
        """That of an implicit mixture, as training left it."""
        shares = np.asarray(jnp.exp(trained.mixture.log_weights), np.float64)
        return cls(
            len(shares),
            tuple(float(share) for share in shares),
            starts,
            failed,
            len(trained.history),
            trained.lost,
            trained.skipped,
            seconds,
            agreement=agreement,
        )


@eqx.filter_jit
def _drawn(approximation: Approximation, keys: Array) -> Float[Array, "n d"]:
    return jax.vmap(approximation.sample)(keys)


@eqx.filter_jit
def _of_each(function: Callable[[PyTree, Latent], Sites], target: Target, z: Array) -> Sites:
    return jax.vmap(lambda z: function(target.arguments, z))(z)


def of_all(
    function: Callable[[PyTree, Latent], Sites], target: Target, z: Float[Array, "n d"]
) -> Sites:
    """One of the target's functions at several draws, in chunks of one compiled program."""
    count = z.shape[0]
    z = _padded(z, -count % CHUNK)
    parts = [_of_each(function, target, z[i : i + CHUNK]) for i in range(0, len(z), CHUNK)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)


def _padded(array: Array, count: int) -> Array:
    return jnp.concatenate([array, jnp.broadcast_to(array[-1:], (count, *array.shape[1:]))])


Number = TypeVar("Number")


def _existing(name: str, number: Number | None) -> Number:
    if number is None:
        raise ConfigError(
            f"{name}: expected a posterior with a density, got one of method 'critic', which can "
            "only be sampled; use smoothed_bracket(key) for bounds of the posterior with a little "
            "noise, or fresh_critics(key) for an estimate and a bound from above"
        )
    return number


class Posterior:
    """An implicit posterior of a model, as :meth:`avb.Inference.run` gives it.

    Attributes:
        verdict: Whether it converged, and why not.
        fit: How it came about.
        approximation: q(z) over the unconstrained vector z.
        rows: The proposal for the latents of each row, where they have some; else ``None``.
    """

    def __init__(
        self,
        approximation: Approximation,
        target: Target | None,
        elbo: Bracket | None,
        importance: Importance | None,
        verdict: Verdict,
        fit: Fit,
        rows: RowFit | None = None,
    ):
        self.approximation = approximation
        self._elbo = elbo
        self._importance = importance
        self.verdict = verdict
        self.fit = fit
        self.rows = rows
        self._target = target

    @property
    def has_density(self) -> bool:
        """Whether there are bounds and importance weights."""
        return self._elbo is not None

    @property
    def elbo(self) -> Bracket:
        """Bracket of the ELBO, in nats.

        Raises:
            ConfigError: The method is ``"critic"``, whose posterior has no density.
        """
        return _existing("elbo", self._elbo)

    @property
    def importance(self) -> Importance:
        """Log evidence, k̂ and effective draws of the importance weights.

        Raises:
            ConfigError: The method is ``"critic"``, whose posterior has no density.
        """
        return _existing("importance", self._importance)

    def smoothed_bracket(
        self, key: Key, *, draws: int = 2000, components: int = 4096
    ) -> tuple["Estimate", "Estimate"]:
        """Both bounds of the ELBO of the posterior with a little noise, for method ``"critic"``.

        See :func:`avb.evaluation.smoothed_bracket`: the lower one is a bound of the log evidence.
        """
        from avb.evaluation import smoothed_bracket

        model, sampler = self._sampler("smoothed_bracket")
        return smoothed_bracket(
            model, sampler, no_data(), key=key, draws=draws, components=components
        )

    def fresh_critics(self, key: Key, *, draws: int = 2000) -> "FreshCritics":
        """The ELBO by critics that are trained anew, for method ``"critic"``.

        See :func:`avb.evaluation.fresh_critic_elbo`: an estimate, and a bound from above.
        """
        from avb.evaluation import fresh_critic_elbo

        model, sampler = self._sampler("fresh_critics")
        return fresh_critic_elbo(model, sampler, no_data(), key=key, draws=draws)

    @property
    def target(self) -> Target:
        """The log density and the transforms to the sites.

        Raises:
            ConfigError: The posterior was loaded without the model.
        """
        if self._target is None:
            raise ConfigError(
                "sample: expected the model, whose transforms give the sites, got none; pass it to "
                "avb.inference.load, or use sample_unconstrained"
            )
        return self._target

    def _sampler(self, name: str) -> tuple:
        if not isinstance(self.approximation, FramedSampler):
            raise ConfigError(
                f"{name}: expected a posterior without a density, of method 'critic', got method "
                f"{self.fit.method!r}; use elbo"
            )
        if self._target is None:
            raise ConfigError(f"{name}: expected a model, got none; give it to avb.inference.load")
        return as_model(self._target, self.approximation.frame), self.approximation.inner

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the posterior; ``verdict`` has the reasons."""
        return self.verdict.converged

    def sample_unconstrained(
        self, key: Key, sample_shape: tuple[int, ...] = (), *, resample: bool = False
    ) -> Float[Array, "*s d"]:
        """Draws of the unconstrained vector, of shape ``(*sample_shape, d)``.

        Args:
            key: PRNG key.
            sample_shape: Shape of the sample.
            resample: See :meth:`sample`.
        """
        count = math.prod(sample_shape)
        chunks = -(-count // CHUNK)
        draw = self._resampled if resample else self._plain
        parts = [draw(k) for k in jax.random.split(key, chunks)]
        z = jnp.concatenate(parts) if parts else jnp.zeros((0, self.approximation.dim))
        return z[:count].reshape(*sample_shape, self.approximation.dim)

    def _plain(self, key: Key) -> Float[Array, "n d"]:
        return _drawn(self.approximation, jax.random.split(key, CHUNK))

    def _resampled(self, key: Key) -> Float[Array, "n d"]:
        """Draws chosen by their smoothed importance weights."""
        if self._target is None:
            raise ConfigError("resample: expected a model, got none; give it to avb.inference.load")
        warn_if_untrusted(self.importance, stacklevel=4)
        key_draw, key_choice = jax.random.split(key)
        weighed = self._weighed(key_draw)
        return choose(weighed.z, weighed.log_weights, key_choice, CHUNK)

    def _weighed(self, key: Key) -> Weighed:
        _existing("importance", self._importance)
        assert self._target is not None
        assert not isinstance(self.approximation, FramedSampler)
        return weigh(self.approximation, self._target, key)

    def sample(
        self, key: Key, sample_shape: tuple[int, ...] = (), *, resample: bool = False
    ) -> Sites:
        """Draws by site, constrained and with deterministic sites, as ``Predictive`` wants them.

        Args:
            key: PRNG key.
            sample_shape: Shape of the sample, before each site's own.
            resample: Choose among about four times as many draws by Pareto-smoothed importance
                weights, which takes out most of what bias the posterior has where k̂ is
                below 0.7; a few draws then occur more than once.

        Raises:
            ConfigError: The posterior was loaded without the model.
        """
        target = self.target
        if math.prod(sample_shape) == 0:
            raise ConfigError(f"sample_shape: expected at least one draw, got {sample_shape}")
        z = self.sample_unconstrained(key, sample_shape, resample=resample)
        flat = z.reshape(-1, self.approximation.dim)
        sites = of_all(target.functions.constrain, target, flat)
        return {k: v.reshape(*sample_shape, *v.shape[1:]) for k, v in sites.items()}

    def sample_rows(self, key: Key, rows: ArrayLike, sample_shape: tuple[int, ...] = ()) -> Sites:
        """Draws of the latent sites inside the subsampled plate, with those of all others.

        Args:
            key: PRNG key.
            rows: Indices of the rows that are wanted, shape ``(r,)``.
            sample_shape: Shape of the sample.

        Returns:
            Constrained sites by name; those of the rows have shape ``(*sample_shape, r, …)``.

        Raises:
            ConfigError: The model has no such sites, the posterior was loaded without the model
                and its data, or there is no such row.
        """
        if self.rows is None:
            raise ConfigError(
                "sample_rows: expected a model with latent sites inside a subsampled plate, got "
                "one without; use sample"
            )
        key_shared, key_rows = jax.random.split(key)
        shared = self.sample(key_shared, sample_shape)
        z = self.sample_unconstrained(key_shared, sample_shape).reshape(-1, self.approximation.dim)
        own = sample_rows(self.rows, z, np.asarray(rows), key_rows)
        return shared | {k: v.reshape(*sample_shape, *v.shape[1:]) for k, v in own.items()}

    def summary(self) -> list[dict[str, Any]]:
        """Mean, sd and quantiles of every scalar, from a fixed set of draws."""
        return summary_rows(self.sample(jax.random.key(0), (SUMMARY_DRAWS,)))

    @functools.cached_property
    def _table(self) -> str:
        return as_text(self.summary())

    def __str__(self) -> str:
        lines = []
        if self._elbo is not None and self._importance is not None:
            found = self._importance
            lines = [
                f"ELBO in {self._elbo}",
                f"log evidence {found.log_evidence:.4f} ± {found.error:.4f} by importance "
                f"weighting: k = {found.pareto_k:.2f}, {found.effective:.0f} effective of "
                f"{found.draws} draws",
                f"log evidence at least {self._elbo.lower:.4f}, at most {found.upper:.4f} ± "
                f"{found.upper_error:.4f} if the posterior covers the target",
            ]
        lines += [
            f"method {self.fit.method}{self._parts()}; "
            f"{self.fit.steps} steps, {self.fit.seconds:.1f} s",
            *([str(self.fit.agreement)] if self.fit.agreement else []),
            *([str(self.rows.integrals)] if self.rows else []),
            str(self.verdict),
        ]
        return "\n".join(([self._table, ""] if self._target is not None else []) + lines)

    def _parts(self) -> str:
        """The parts of the approximation and their weights, where there are several."""
        if self.fit.modes == 1:
            return ""
        weights = ", ".join(f"{weight:.3f}" for weight in self.fit.weights)
        return f", {self.fit.modes} parts of weights {weights}"

    def draw_pairs(
        self,
        path: str | os.PathLike,
        reference: Mapping[str, ArrayLike],
        *,
        sites: Sequence[str] | None = None,
        draws: int = SUMMARY_DRAWS,
        key: Key | None = None,
    ) -> None:
        """Show draws over a reference's, such as ``mcmc.get_samples()``: scalars, and their pairs.

        The first five scalars; see :func:`avb.report.draw_two_samples`.

        Args:
            path: Where to write the PNG file.
            reference: Draws by site, each of shape ``(n, …)``.
            sites: Which to show, by name; by default all that both have.
            draws: Number of draws of the posterior.
            key: PRNG key; by default a fixed one.

        Raises:
            ConfigError: A site that one of them does not have, or the posterior was loaded without
                the model.
            DataError: Shapes that do not fit, few draws, or numbers that are not finite.
            RunError: The file cannot be written.
        """
        drawn = self.sample(jax.random.key(0) if key is None else key, (draws,))
        draw_site_pairs(path, drawn, reference, sites)

    def save(self, path: str | os.PathLike) -> None:
        """Write all but the model into one ``.npz`` file, without pickle.

        Raises:
            RunError: It cannot be written.
        """
        from avb.inference._files import write

        write(path, self)

    def to_arviz(
        self, *, draws: int = 4000, key: Key | None = None, log_likelihood: bool = False
    ) -> "DataTree":
        """Draws, log densities and diagnostics as ArviZ has them; see :func:`as_data_tree`.

        Args:
            draws: Number of draws, all of one chain: they are independent.
            key: PRNG key; by default a fixed one.
            log_likelihood: Whether that of every datum is there too, as ``arviz_stats.loo`` needs
                it: a number for each draw and datum.

        Raises:
            ConfigError: ``arviz-base`` is not installed, there is no model, or its data have no
                likelihood one by one.
        """
        from avb.inference._arviz import as_data_tree

        key = jax.random.key(0) if key is None else key
        return as_data_tree(self, draws, key, log_likelihood=log_likelihood)
