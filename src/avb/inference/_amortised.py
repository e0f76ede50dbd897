"""One posterior for all data sets of a model, trained on simulations of it."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from avb._check import expect_equal
from avb._errors import ConfigError, RunError, TrainingError
from avb._types import Key
from avb.inference._amortised_posterior import AmortisedPosterior
from avb.inference._amortiser import (
    POOL,
    Amortiser,
    Simulations,
    Standard,
    SummaryEncoder,
    optimiser,
    stretch,
    trained,
)
from avb.inference._identity import key_in_words
from avb.inference._journal import TRAINING, Journal, open_journal
from avb.inference._npz import UNREADABLE, from_arrays, read_arrays, to_arrays, write_arrays
from avb.inference._simulator import Data, Simulator, flat
from avb.posteriors import AbstractTractablePosterior, MixturePosterior

if TYPE_CHECKING:
    from avb.diagnostics import Calibration

STANDARDISED_BY = 10_000
STRETCH = 500
MAX_UNUSABLE = 0.1
FORMAT = 1


class AmortisedInference:
    """A posterior for every data set that a NumPyro model may make, trained once.

    Training maximises E[log q(z|x)] over simulations (z, x) from the model: the forward
    divergence E_p(x)[KL(p(z|x) ‖ q(z|x))], which punishes a q that misses mass. No data are
    needed, and no gradient of the model; discrete data and latents are no obstacle.

    Args:
        model: A NumPyro model that draws its data where none are given.
        *args: The model's arguments, without the data.
        observed: Names of the sites that are data. What varies from one data set to the next,
            such as known errors, is a site of them with a distribution of its own.
        summary: From the data by site to the vector that the network sees; by default all of
            them in one. Use one that forgets what does not matter, such as an order.
        posterior: Makes q from ``(encoder, data_shape=…, latent_dim=…, key=…)``.
        **kwargs: The model's keyword arguments, without the data.

    Raises:
        ConfigError: Sites that cannot be simulated or inferred; the message names them.

    References:
        Papamakarios & Murray (2016), https://arxiv.org/abs/1605.06376; Radev et al. (2020),
        https://arxiv.org/abs/2003.06281.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *args: Any,
        observed: tuple[str, ...],
        summary: Callable[[Data], Array] = flat,
        posterior: Callable[..., AbstractTractablePosterior] = MixturePosterior,
        **kwargs: Any,
    ):
        if not callable(model):
            raise ConfigError(f"model: expected a function, got {type(model).__name__}")
        self.simulator = Simulator(model, tuple(observed), args, kwargs)
        self.summary = summary
        self._make = posterior
        shape = jax.eval_shape(summary, self.simulator.shapes).shape
        expect_equal("number of axes of the summary", 1, len(shape))
        self._amortiser: Amortiser | None = None
        self.history: list[float] = []

    @property
    def amortiser(self) -> Amortiser:
        """q(z|x), trained.

        Raises:
            ConfigError: There is none yet.
        """
        if self._amortiser is None:
            raise ConfigError("amortised inference: expected a trained posterior; call fit first")
        return self._amortiser

    def fit(
        self,
        key: Key,
        *,
        steps: int = 20_000,
        batch_size: int = 256,
        rate: float = 1e-3,
        progress: Callable[[int, int], None] | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
    ) -> "AmortisedInference":
        """Train on simulations, none of which is used twice.

        Args:
            key: PRNG key; the same key gives the same posterior bit for bit.
            steps: Steps, rounded up to whole stretches of 500.
            batch_size: Simulations a step.
            rate: Adam's rate at the start; it falls to zero along a cosine.
            progress: Called with the steps done and those in all.
            checkpoint_dir: Folder to keep training in, stretch by stretch. Training that was
                killed at any moment goes on there when it is called again with the same
                arguments, and ends in the same posterior bit for bit.

        Returns:
            Itself. ``history`` has the mean of −log q(z|x) over each stretch, in nats.

        Raises:
            ConfigError: A number out of range.
            RunError: ``checkpoint_dir`` holds training of something else, or other files; is in
                use, or cannot be written.
            TrainingError: Over a tenth of the simulations are not finite.
        """
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        settings = {"steps": steps, "batch_size": batch_size, "rate": rate}
        with open_journal(checkpoint_dir, lambda: self._identity(key, settings)) as journal:
            self._train(key, steps, batch_size, rate, progress, journal)
        return self

    def _train(
        self,
        key: Key,
        steps: int,
        batch_size: int,
        rate: float,
        progress: Callable[[int, int], None] | None,
        journal: Journal,
    ) -> None:
        key_data, key_net, key_train = jax.random.split(key, 3)
        begun = journal.load(TRAINING)
        amortiser = self._start(key_data, key_net) if begun is None else self._empty()
        state = optimiser().init(eqx.filter(amortiser, trained(amortiser)))
        self.history = []
        if begun is not None:
            amortiser, state = from_arrays(begun, (amortiser, state))
            self.history = begun["history"].tolist()
        stretches = -(-steps // STRETCH)
        wave = 0.5 * (1 + np.cos(np.pi * np.arange(stretches * STRETCH) / (stretches * STRETCH)))
        rates = jnp.asarray(rate * wave.reshape(stretches, STRETCH), jnp.float32)
        for index in range(len(self.history), stretches):
            key_stretch = jax.random.fold_in(key_train, index)
            amortiser, state, losses = stretch(
                amortiser, state, key_stretch, rates[index], self._simulations, batch_size
            )
            self.history.append(float(jnp.mean(losses)))
            journal.save(
                TRAINING, {**to_arrays((amortiser, state)), "history": np.array(self.history)}
            )
            if progress is not None:
                progress((index + 1) * STRETCH, stretches * STRETCH)
        self._amortiser = amortiser

    def _identity(self, key: Key, settings: dict[str, Any]) -> dict[str, str]:
        """What decides the posterior, in words; of the model, what it simulates."""
        pairs = eqx.filter_jit(self._simulations)(jax.random.key(0), 1)
        size = sum(leaf.size for leaf in to_arrays(self._empty()).values())
        return {
            "key": key_in_words(key),
            **{name: str(value) for name, value in settings.items()},
            "data": self._described,
            "numbers of the posterior": str(size),
            "first simulation": " ".join(f"{v:.5g}" for v in [*pairs.z[0], *pairs.x[0]]),
            "version of avb": importlib.metadata.version("avb"),
        }

    @property
    def _simulations(self) -> Simulations:
        return Simulations(self.simulator.simulate, self.summary)

    def _start(self, key_data: Key, key_net: Key) -> Amortiser:
        """An untrained posterior, in the coordinates of a first sample."""
        pairs = eqx.filter_jit(self._simulations)(key_data, STANDARDISED_BY)
        usable = np.asarray(pairs.usable)
        if np.mean(~usable) > MAX_UNUSABLE:
            raise TrainingError(
                f"simulations: expected finite numbers, got NaN or infinity in "
                f"{np.mean(~usable):.0%} of {STANDARDISED_BY}; narrow the priors",
                state=None,
            )
        z, x = (Standard.of(np.asarray(a)[usable]) for a in (pairs.z, pairs.x))
        return self._untrained(z, x, key_net)

    def _untrained(self, z: Standard, x: Standard, key: Key) -> Amortiser:
        key_encoder, key_posterior = jax.random.split(key)
        posterior = self._make(
            SummaryEncoder(x, key=key_encoder),
            data_shape=x.loc.shape,
            latent_dim=self.simulator.dim,
            key=key_posterior,
        )
        return Amortiser(posterior, z)

    def save(self, path: str | os.PathLike) -> None:
        """Write the trained posterior into one ``.npz`` file, without pickle and without the model.

        Raises:
            ConfigError: There is none yet.
            RunError: It cannot be written; what was there before is unharmed.
        """
        about = {"format": FORMAT, "data": self._described, "history": self.history}
        write_arrays(path, to_arrays(self.amortiser), about)

    def load(self, path: str | os.PathLike) -> "AmortisedInference":
        """Take the trained posterior from a file that :meth:`save` wrote, in place of ``fit``.

        The file holds numbers, no code: model, summary and kind of posterior are those that this
        object was made with, and must be those that the saved one was made with.

        Returns:
            Itself, trained, with the saved ``history``.

        Raises:
            RunError: No such file, another's, or one of another version.
            ConfigError: It belongs to other data, or to another model, summary or posterior.
        """
        name = os.fspath(path)
        try:
            arrays, about = read_arrays(path)
            version, described = about["format"], about["data"]
        except UNREADABLE as error:
            raise RunError(f"{name}: expected a saved amortised posterior, got {error}") from error
        if version != FORMAT:
            raise RunError(
                f"{name}: expected format {FORMAT}, got {version}; it was saved by another "
                "version of avb"
            )
        if described != self._described:
            raise ConfigError(f"data of {name}: expected {self._described}, got {described}")
        like = self._empty()
        expected = {key: leaf.shape for key, leaf in to_arrays(like).items()}
        if expected != {key: leaf.shape for key, leaf in arrays.items()}:
            raise ConfigError(
                f"{name}: expected the arrays of this model, summary and posterior, got others; "
                "make AmortisedInference with the arguments of the saved one"
            )
        self._amortiser = from_arrays(arrays, like)
        self.history = about["history"]
        return self

    @property
    def _described(self) -> str:
        """The observed sites, as the simulator draws them."""
        shapes = self.simulator.shapes
        return ", ".join(
            f"{name} {shapes[name].dtype}{list(shapes[name].shape)}" for name in sorted(shapes)
        )

    def _empty(self) -> Amortiser:
        """An amortiser of this structure, whatever its numbers."""
        size = jax.eval_shape(self.summary, self.simulator.shapes).size
        z, x = (Standard(jnp.zeros(n), jnp.ones(n)) for n in (self.simulator.dim, size))
        return self._untrained(z, x, jax.random.key(0))

    def posterior(self, data: Mapping[str, Any]) -> AmortisedPosterior:
        """The posterior given one data set.

        Args:
            data: The observed sites by name, of the shapes that the model draws.

        Raises:
            DataError: Other names or shapes, or numbers that are not finite.
        """
        checked = self.simulator.check(data)
        target = self.simulator.target(checked)
        return AmortisedPosterior(self.amortiser, self.summary(checked), target)

    def calibration(
        self,
        key: Key,
        *,
        simulations: int = 1000,
        draws: int = 99,
        resample: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Calibration":
        """Simulation-based calibration: each coordinate of z and log p(z, x) ranked.

        Args:
            key: PRNG key.
            simulations: Number of simulations, at least 20.
            draws: Posterior draws a simulation.
            resample: Draw by importance weights (unsmoothed, from ten times as many draws).
            progress: Called with the simulations done and those in all.

        Returns:
            Ranks and tests of their uniformity; see
            :func:`~avb.diagnostics.simulation_based_calibration`.
        """
        from avb.diagnostics import simulation_based_calibration

        amortiser, summary = self.amortiser, self.summary
        log_density = self.simulator.functions.log_density

        def draw(key: Key, data: Data, count: int) -> Array:
            x = summary(data)
            if not resample:
                return amortiser.sample(key, x, count)
            key_draw, key_choice = jax.random.split(key)
            z, log_weights = amortiser.weigh(key_draw, x, self.simulator.target(data), POOL * count)
            return z[jax.random.categorical(key_choice, log_weights, shape=(count,))]

        names = [
            name + (f"[{','.join(map(str, index))}]" if leaf.shape else "")
            for name, leaf in sorted(self.simulator.layout.unconstrained.items())
            for index in np.ndindex(leaf.shape)
        ]
        return simulation_based_calibration(
            self.simulator.simulate,
            draw,
            key=key,
            simulations=simulations,
            draws=draws,
            quantities=lambda z, data: log_density(data, z)[None],
            names=[*names, "log p(z, x)"],
            progress=progress,
        )
