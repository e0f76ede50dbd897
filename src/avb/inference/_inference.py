"""The front door: a NumPyro model or a log density in, a posterior out."""

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from avb._errors import ConfigError
from avb._types import Key
from avb.inference._files import MIXTURE, finish, read, read_finished, read_stage, write_stage
from avb.inference._find_source import NOTHING_TO_ENCODE, RowSettings, find_source
from avb.inference._framed import FramedSampler
from avb.inference._identity import arguments_in_words, key_in_words, model_in_words
from avb.inference._journal import Journal, open_journal
from avb.inference._measure import measure
from avb.inference._methods import (
    BY_SELF_CONTRAST,
    FEWEST_TO_COUPLE,
    MethodName,
    check_dim,
    check_method,
    train_method,
)
from avb.inference._minibatch import run_minibatches
from avb.inference._mixture import start_mixture
from avb.inference._modes import Modes, find_modes
from avb.inference._numpyro import numpyro_target
from avb.inference._posterior import Fit, Posterior
from avb.inference._restarts import refine_all, start_mixtures
from avb.inference._rounds import refine
from avb.inference._source import Source
from avb.inference._target import Target, density_functions
from avb.inference._verdict import UNJUDGED, judge


class Inference:
    """An implicit posterior for a NumPyro model or a log density, without tuning.

    Args:
        model: A NumPyro model; or, with ``dim``, an unnormalised log density: a function of
            one vector of shape ``(dim,)``, followed by the arguments of ``run``.
        dim: Dimensions of the vector; leave it out for a NumPyro model.
        method: ``"auto"``, an implicit mixture by self contrast and, where that says that it did
            not converge, a flow too, of which the one with the higher lower bound is kept
            (``posterior.fit.method`` tells which); ``"self"``, the mixture alone; ``"critic"``,
            an implicit posterior by adversarial training over a learned Gaussian contrast, which
            has no density and no bracket; ``"gaussian"`` and ``"gaussian-diagonal"``; ``"flow"``,
            coupling layers, for two dimensions and more.
        restarts: Trainings of the mixture from the same Gaussian fits, side by side in one
            program; the posterior is all of them, weighted, and tells how far they agree. Each
            takes as many steps as the first.
        starts: Gaussian fits a round, from which the modes are found.
        max_steps: Training steps of a round after which to give up on a bound that still rises;
            there are at most three rounds, each finer than the one before.
        encoder: Of a model with latent sites inside its subsampled plate: features, a vector, of
            one row's entry of each array among the model's arguments that has rows, those in
            memory first; any function, or an Equinox module, which is trained. By default a fully
            connected network of all their numbers.
        row_draws: Points of the integral over the latents of each such row, a power of two; by
            default as many from 32 to 256 as it takes that more would hardly move a mean.

    Raises:
        ConfigError: The model is no function, the method unknown, or a number out of range.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        dim: int | None = None,
        method: MethodName = "auto",
        restarts: int = 1,
        starts: int = 16,
        max_steps: int = 6000,
        encoder: Callable[..., Array] | None = None,
        row_draws: int | None = None,
    ):
        if not callable(model):
            raise ConfigError(f"model: expected a function, got {type(model).__name__}")
        sizes = {"dim": dim, "restarts": restarts, "starts": starts, "max_steps": max_steps}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if row_draws is not None and (row_draws < 2 or row_draws & (row_draws - 1)):
            raise ConfigError(f"row_draws: expected a power of two above 1, got {row_draws}")
        if encoder is not None and not callable(encoder):
            raise ConfigError(f"encoder: expected a function, got {type(encoder).__name__}")
        check_method(method)
        if restarts > 1 and method not in BY_SELF_CONTRAST:
            raise ConfigError(f"restarts with method {method!r}: expected 1, got {restarts}")
        self.method: MethodName = method
        self.model, self.dim = model, dim
        self.restarts, self.starts, self.max_steps = restarts, starts, max_steps
        self.row_settings = RowSettings(encoder, row_draws)
        self._cache: dict = {}

    def target(self, *args: Any, **kwargs: Any) -> Target:
        """The log density that :meth:`run` with the same arguments approximates."""
        source = self.source(*args, **kwargs)
        if source is not None:
            return source.target()
        if self.dim is None:
            return numpyro_target(self.model, args, kwargs, self._cache)
        if "density" not in self._cache:
            self._cache["density"] = density_functions(self.model)
        return Target((args, kwargs), self._cache["density"], self.dim)

    def source(self, *args: Any, **kwargs: Any) -> Source | None:
        """The rows of a model with a subsampled plate; ``None`` of others."""
        settings = self.row_settings
        if self.dim is None:
            source = find_source(self.model, args, kwargs, self._cache, settings)
            if source is not None:
                return source
        if settings.encoder is not None:
            raise ConfigError(NOTHING_TO_ENCODE)
        return None

    def run(
        self,
        key: Key,
        *args: Any,
        progress: Callable[[int, int], None] | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> Posterior:
        """Approximate the posterior.

        Args:
            key: PRNG key; the same key gives the same posterior bit for bit.
            *args: The model's arguments. Of a model with a subsampled plate, ``np.memmap`` arrays
                are read row by row, minibatch by minibatch.
            progress: Called with the stretches of training done and those at most.
            checkpoint_dir: Folder to keep the run in, stretch by stretch. A run that was killed at
                any moment goes on there when it is called again with the same arguments, and ends
                in the same posterior bit for bit; a finished one returns its posterior at once.
            **kwargs: The model's keyword arguments.

        Raises:
            ConfigError: The model has sites that cannot be inferred, or no point with a finite
                log density; the message names the site and the way out.
            RunError: ``checkpoint_dir`` holds the run of another model, of other arguments or
                settings, or other files; is in use, or cannot be written.
        """
        source = self.source(*args, **kwargs)
        if source is not None:
            self._check_minibatches()
            probed = Target(source.target().arguments, source.estimate, source.dim)
        else:
            probed = self.target(*args, **kwargs)
            check_dim(self.method, probed.dim)
        with open_journal(
            checkpoint_dir, lambda: self._identity(key, probed, args, kwargs)
        ) as journal:
            if source is None:
                posterior = self._run_whole(probed, key, journal, progress)
            else:
                numbers = {"starts": self.starts, "max_steps": self.max_steps}
                posterior = run_minibatches(
                    source, key, **numbers, journal=journal, progress=progress
                )
            return finish(journal, posterior)

    def _check_minibatches(self) -> None:
        if self.method not in BY_SELF_CONTRAST:
            raise ConfigError(
                f"method of a model with a subsampled plate: expected 'auto' or "
                f"'self', got {self.method!r}"
            )
        if self.restarts > 1:
            raise ConfigError(
                f"restarts of a model with a subsampled plate: expected 1, got {self.restarts}"
            )

    def _identity(self, key: Key, target: Target, args: tuple, kwargs: dict) -> dict[str, str]:
        """What decides the posterior, in words."""
        settings = ("method", "restarts", "starts", "max_steps")
        return {
            "key": key_in_words(key),
            **{name: str(getattr(self, name)) for name in settings},
            "row_draws": str(self.row_settings.draws),
            "dimension": str(target.dim),
            "precision": jnp.result_type(float).name,
            "version of avb": importlib.metadata.version("avb"),
            **arguments_in_words(args, kwargs),
            **model_in_words(target),
        }

    def _run_whole(
        self,
        target: Target,
        key: Key,
        journal: Journal,
        progress: Callable[[int, int], None] | None,
    ) -> Posterior:
        """From all data at once."""
        finished = read_finished(journal, target)
        if finished is not None:
            return finished
        key_modes, key_rest = jax.random.split(key)
        modes = Modes.from_arrays(
            journal.kept("modes", lambda: find_modes(target, key_modes, self.starts).to_arrays())
        )
        if self.method == "auto":
            return self._run_auto(target, modes, key_rest, journal, progress)
        if self.method == "self":
            return self._run_self(target, modes, key_rest, journal, progress)
        return self._run_other(self.method, target, modes, key_rest, journal, progress)

    def _run_auto(
        self,
        target: Target,
        modes: Modes,
        key: Key,
        journal: Journal,
        progress: Callable[[int, int], None] | None,
    ) -> Posterior:
        """The mixture; a flow instead, where the mixture did not converge and the flow is better.

        Where many pairs of coordinates are bent, the ε of a mixture would have to tell more nats
        than its components can hold; to a flow it makes no difference how many there are.
        """
        mixture = read_stage(journal, MIXTURE, target)
        if mixture is None:
            mixture = self._run_self(target, modes, key, journal, progress)
        if mixture.converged or target.dim < FEWEST_TO_COUPLE or self.restarts > 1:
            return mixture
        write_stage(journal, MIXTURE, mixture)
        key_flow = jax.random.fold_in(key, 1)
        flow = self._run_other("flow", target, modes, key_flow, journal, progress)
        return flow if flow.elbo.lower > mixture.elbo.lower else mixture

    def _run_self(
        self,
        target: Target,
        modes: Modes,
        key: Key,
        journal: Journal,
        progress: Callable[[int, int], None] | None,
    ) -> Posterior:
        key_start, key_train = jax.random.split(key)
        fits, agreement = (modes.frames, modes.log_weights), None
        if self.restarts == 1:
            mixture = start_mixture(*fits, key_start)
            refined = refine(target, mixture, key_train, self.max_steps, journal, progress)
        else:
            mixtures = start_mixtures(*fits, key_start, self.restarts)
            refined, agreement = refine_all(
                target, mixtures, key_train, self.max_steps, journal, progress
            )
        trained = refined.trained
        verdict = judge(
            refined.bounds,
            refined.weights,
            stalled=trained.stalled,
            steps=len(trained.history),
            lost=trained.lost,
            modes_open=modes.still_open,
            agreement=agreement,
        )
        fit = Fit.of_mixture(
            trained, starts=modes.starts, failed=modes.failed, seconds=0.0, agreement=agreement
        )
        return Posterior(trained.mixture, target, refined.bounds, refined.weights, verdict, fit)

    def _run_other(
        self,
        method: MethodName,
        target: Target,
        modes: Modes,
        key: Key,
        journal: Journal,
        progress: Callable[[int, int], None] | None,
    ) -> Posterior:
        key_train, key_measure = jax.random.split(key)
        approximation, steps, skipped = train_method(
            method, target, modes, key_train, self.max_steps, journal, progress
        )
        fit = Fit(1, (1.0,), modes.starts, modes.failed, steps, 0.0, skipped, 0.0, method)
        if isinstance(approximation, FramedSampler):
            return Posterior(approximation, target, None, None, UNJUDGED, fit)
        bounds, weights = measure(approximation, target, key_measure)
        verdict = judge(
            bounds, weights, stalled=True, steps=steps, lost=0.0, modes_open=modes.still_open
        )
        return Posterior(approximation, target, bounds, weights, verdict, fit)


def load(
    path: str | os.PathLike, inference: Inference | None = None, *args: Any, **kwargs: Any
) -> Posterior:
    """A posterior from a file that :meth:`Posterior.save` wrote.

    The file holds the posterior of the unconstrained vector and all its numbers, but no code:
    the transforms to the sites are the model's, which is given again.

    Args:
        path: The file.
        inference: Of the same model; without it there is ``sample_unconstrained`` alone.
        *args: The model's arguments, as for :meth:`Inference.run`; their values matter only to
            deterministic sites, supports that depend on them, and resampling.
        **kwargs: The model's keyword arguments.

    Raises:
        RunError: The file is missing, or no saved posterior of this version.
        ConfigError: The model has another dimension than the posterior.
    """
    if inference is None:
        return read(path, None)
    return read(path, inference.target(*args, **kwargs), inference.source(*args, **kwargs))
