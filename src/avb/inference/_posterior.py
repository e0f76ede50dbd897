"""The result: draws in the model's own terms, bounds, a verdict, and a file to keep it in."""

import dataclasses
import functools
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError, RunError
from avb._types import Key
from avb.inference._measure import MAX_PARETO_K, Bracket, Importance, weigh
from avb.inference._mixture import Frames, ImplicitMixture
from avb.inference._target import Sites, Target
from avb.inference._verdict import Verdict

FORMAT = 2
CHUNK = 1000
SUMMARY_DRAWS = 4000


class ResampleWarning(UserWarning):
    """Resampled draws whose weights cannot be trusted."""


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
    """

    modes: int
    weights: tuple[float, ...]
    starts: int
    failed: int
    steps: int
    lost: float
    skipped: int
    seconds: float


@eqx.filter_jit
def _drawn(mixture: ImplicitMixture, keys: Array) -> Float[Array, "n d"]:
    return jax.vmap(lambda key: mixture.draw(key)[0])(keys)


@eqx.filter_jit
def _constrained(target: Target, z: Float[Array, "n d"]) -> Sites:
    return jax.vmap(target.constrain)(z)


def _padded(array: Array, count: int) -> Array:
    return jnp.concatenate([array, jnp.broadcast_to(array[-1:], (count, *array.shape[1:]))])


class Posterior:
    """An implicit posterior of a model, as :meth:`avb.Inference.run` gives it.

    Attributes:
        elbo: Bracket of its ELBO, in nats.
        importance: Log evidence, k̂ and effective draws of its importance weights.
        verdict: Whether it converged, and why not.
        fit: How it came about.
        mixture: q(z) over the unconstrained vector z.
    """

    def __init__(
        self,
        mixture: ImplicitMixture,
        target: Target | None,
        elbo: Bracket,
        importance: Importance,
        verdict: Verdict,
        fit: Fit,
    ):
        self.mixture = mixture
        self.elbo = elbo
        self.importance = importance
        self.verdict = verdict
        self.fit = fit
        self._target = target

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
        z = jnp.concatenate(parts) if parts else jnp.zeros((0, self.mixture.dim))
        return z[:count].reshape(*sample_shape, self.mixture.dim)

    def _plain(self, key: Key) -> Float[Array, "n d"]:
        return _drawn(self.mixture, jax.random.split(key, CHUNK))

    def _resampled(self, key: Key) -> Float[Array, "n d"]:
        """Draws chosen by their smoothed importance weights."""
        if self._target is None:
            raise ConfigError("resample: expected a model, got none; give it to avb.inference.load")
        if not self.importance.trusted:
            warnings.warn(
                f"Pareto k of the importance weights is {self.importance.pareto_k:.2f}, above "
                f"{MAX_PARETO_K}: resampled draws may be worse than plain ones",
                ResampleWarning,
                stacklevel=4,
            )
        from arviz_stats.base.array import array_stats

        key_draw, key_choice = jax.random.split(key)
        weighed = weigh(self.mixture, self._target, key_draw)
        # ArviZ takes log likelihoods, whose negatives are the log weights.
        smoothed = array_stats.psislw(-np.asarray(weighed.log_weights, np.float64))[0]
        chosen = jax.random.categorical(
            key_choice, jnp.asarray(smoothed, weighed.z.dtype), shape=(CHUNK,)
        )
        return weighed.z[chosen]

    def sample(
        self, key: Key, sample_shape: tuple[int, ...] = (), *, resample: bool = False
    ) -> Sites:
        """Draws by site, constrained and with deterministic sites, as ``Predictive`` wants them.

        Args:
            key: PRNG key.
            sample_shape: Shape of the sample, before each site's own.
            resample: Choose among about twice as many draws by Pareto-smoothed importance
                weights, which takes out most of what bias the posterior has where k̂ is
                below 0.7; a few draws then occur more than once.

        Raises:
            ConfigError: The posterior was loaded without the model.
        """
        if self._target is None:
            raise ConfigError(
                "sample: expected the model, whose transforms give the sites, got none; pass it to "
                "avb.inference.load, or use sample_unconstrained"
            )
        z = self.sample_unconstrained(key, sample_shape, resample=resample)
        flat = z.reshape(-1, self.mixture.dim)
        count = flat.shape[0]
        if count == 0:
            raise ConfigError(f"sample_shape: expected at least one draw, got {sample_shape}")
        flat = _padded(flat, -count % CHUNK)
        parts = [
            _constrained(self._target, flat[i : i + CHUNK]) for i in range(0, len(flat), CHUNK)
        ]
        sites = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
        return {k: v.reshape(*sample_shape, *v.shape[1:]) for k, v in sites.items()}

    def summary(self) -> list[dict[str, Any]]:
        """Mean, sd and quantiles of every scalar, from a fixed set of draws."""
        sites = self.sample(jax.random.key(0), (SUMMARY_DRAWS,))
        rows = []
        for name, values in sites.items():
            flat = np.asarray(values).reshape(SUMMARY_DRAWS, -1)
            for index, column in zip(np.ndindex(values.shape[1:]), flat.T, strict=True):
                low, median, high = np.quantile(column, (0.05, 0.5, 0.95))
                rows.append(
                    {
                        "site": name + (f"[{','.join(map(str, index))}]" if index else ""),
                        "mean": float(np.mean(column)),
                        "sd": float(np.std(column)),
                        "5%": float(low),
                        "median": float(median),
                        "95%": float(high),
                    }
                )
        return rows

    @functools.cached_property
    def _table(self) -> str:
        rows = self.summary()
        width = max(len(row["site"]) for row in rows)
        columns = ("mean", "sd", "5%", "median", "95%")
        lines = [" " * width + "".join(f"{c:>12}" for c in columns)]
        lines += [
            f"{row['site']:<{width}}" + "".join(f"{row[c]:12.4g}" for c in columns) for row in rows
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        found = self.importance
        lines = [
            f"ELBO in {self.elbo}",
            f"log evidence {found.log_evidence:.4f} ± {found.error:.4f} by importance weighting, "
            f"k = {found.pareto_k:.2f}, {found.effective:.0f} effective of {found.draws} draws",
            f"{self.fit.modes} parts of weights "
            + ", ".join(f"{w:.3f}" for w in self.fit.weights)
            + f"; {self.fit.steps} steps, {self.fit.seconds:.1f} s",
            str(self.verdict),
        ]
        return "\n".join(([self._table, ""] if self._target is not None else []) + lines)

    def save(self, path: str | os.PathLike) -> None:
        """Write all but the model into one ``.npz`` file, without pickle."""
        leaves = jax.tree.leaves(eqx.filter(self.mixture, eqx.is_array))
        arrays = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        about = {
            "format": FORMAT,
            "shape": list(self.mixture.frames.loc.shape),
            "dtype": str(self.mixture.logits.dtype),
            "elbo": dataclasses.asdict(self.elbo),
            "importance": dataclasses.asdict(self.importance),
            "verdict": dataclasses.asdict(self.verdict),
            "fit": dataclasses.asdict(self.fit),
        }
        partial = Path(f"{os.fspath(path)}.partial")
        with partial.open("wb") as file:
            arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        os.replace(partial, path)


def read(path: str | os.PathLike, target: Target | None) -> Posterior:
    """The posterior in a file that :meth:`Posterior.save` wrote.

    Raises:
        RunError: No such file, or another's; or one of another version.
        ConfigError: The model has another dimension than the posterior.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            arrays = [file[f"leaf_{i}"] for i in range(len(file.files) - 1)]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{os.fspath(path)}: expected a saved posterior, got {error}") from error
    if about["format"] != FORMAT:
        raise RunError(
            f"{os.fspath(path)}: expected format {FORMAT}, got {about['format']}; "
            "it was saved by another version of avb"
        )
    count, dim = about["shape"]
    if target is not None and target.dim != dim:
        raise ConfigError(
            f"dimensions of the loaded posterior's model: expected {dim}, got {target.dim}"
        )
    zeros = jnp.zeros((count, dim))
    frames = Frames(zeros, jnp.zeros((count, dim, dim)), jnp.zeros((count, dim, dim)), zeros[:, 0])
    like = ImplicitMixture(frames, zeros[:, 0], key=jax.random.key(0))
    held, rest = eqx.partition(like, eqx.is_array)
    leaves = [jnp.asarray(array) for array in arrays]
    mixture = eqx.combine(jax.tree.unflatten(jax.tree.structure(held), leaves), rest)
    verdict = Verdict(about["verdict"]["converged"], tuple(about["verdict"]["reasons"]))
    fit = Fit(**{**about["fit"], "weights": tuple(about["fit"]["weights"])})
    return Posterior(
        mixture, target, Bracket(**about["elbo"]), Importance(**about["importance"]), verdict, fit
    )
