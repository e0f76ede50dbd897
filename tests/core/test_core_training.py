"""The training step, the guard against non-finite steps, and the driver."""

import dataclasses
import logging
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jaxtyping import Array
from test_core_helpers import AffineDecoder, all_finite, assert_same_bits

import avb
from avb import Architecture, FitConfig, Method, Outcome, TrainingError
from avb._types import Features, Key
from avb.contrasts import AbstractContrast, GaussianContrast, MixtureContrast
from avb.critics import AbstractCritic, ResidualCritic, TelescopingCritic
from avb.densities import DiagonalGaussian
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.objectives import Logistic
from avb.posteriors import ImplicitPosterior
from avb.training import DeviceData, State, _batches, _fit, init, run, step
from avb.training._batches import binarise
from avb.training._guard import PARTS, part_at_fault, squared_norm
from avb.training._losses import Terms
from avb.training._state import copied, optimisers, players
from avb.training._step import AVERAGE_EVERY, Inputs, _average, _clip, _kl_weight

SHAPE, D = (6,), 2
ARCHITECTURE = Architecture(SHAPE, D, width=8, depth=1)
BYTES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
CONFIG = FitConfig(epochs=6, batch_size=8, ema_decay=0.9)
STEPS_PER_EPOCH = len(BYTES) // CONFIG.batch_size


def start(method: Method, config: FitConfig, key: Key, raw: np.ndarray = BYTES) -> State:
    encoding = "binarise" if raw.dtype == np.uint8 else "real"
    return init(method, DeviceData(raw, encoding, config.batch_size), config, key=key)


def run_to(state: State, until: int, config: FitConfig, raw: np.ndarray = BYTES) -> State:
    """The library's compiled run; the given state may be used again."""
    encoding = "binarise" if raw.dtype == np.uint8 else "real"
    data = DeviceData(raw, encoding, config.batch_size)
    return run(Inputs(data, config, jnp.asarray(until, jnp.int32)), copied(state))


# Pixels and batches.


def test_binarise_has_the_exact_probabilities(monkeypatch):
    """Over all 256 noise bytes, each pixel is 1 as often as its probability says."""
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
    noise = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    monkeypatch.setattr(_batches, "random_bytes", lambda key, shape: jnp.asarray(noise))
    ones = np.asarray(binarise(jnp.asarray(pixels), jax.random.key(0)))
    frequency = ones.mean(axis=1)
    assert ones.dtype == np.float32
    assert np.abs(frequency - np.arange(256) / 255).max() <= 1 / 510 + 1e-7
    assert frequency[0] == 0
    assert frequency[255] == 1


def test_binarise_draws_the_frequencies(key):
    count = 40_000
    pixels = jnp.tile(jnp.array([0, 1, 40, 127, 128, 200, 254, 255], jnp.uint8), (count, 1))
    frequency = np.asarray(binarise(pixels, key)).mean(axis=0)
    truth = np.asarray(pixels[0]) / 255
    assert np.all(np.abs(frequency - truth) <= 1 / 510 + 5 * np.sqrt(truth * (1 - truth) / count))
    assert (frequency[0], frequency[-1]) == (0, 1)


@pytest.mark.parametrize("size", [1, 3, 4, 1001])
def test_random_bytes_are_uniform_and_of_the_shape_asked(size, key):
    drawn = _batches.random_bytes(key, (size, 64))
    assert drawn.shape == (size, 64)
    assert drawn.dtype == jnp.uint8
    if size > 1000:
        counts = np.bincount(np.ravel(drawn), minlength=256)
        expected = size * 64 / 256
        chi_squared = np.sum((counts - expected) ** 2 / expected)
        # 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert abs(chi_squared - 255) < 5 * 22.6


@pytest.mark.parametrize(("count", "batch_size"), [(10, 5), (11, 4), (7, 7)])
def test_every_epoch_visits_data_at_most_once(count, batch_size, key):
    data = DeviceData(np.arange(count, dtype=np.float32)[:, None], "real", batch_size)
    assert data.steps_per_epoch == count // batch_size
    orders = []
    for epoch in range(3):
        order = data.order(key, jnp.asarray(epoch))
        seen = [
            float(value)
            for position in range(data.steps_per_epoch)
            for value in np.ravel(data.batch(order, jnp.asarray(position), key))
        ]
        assert len(set(seen)) == len(seen) == count // batch_size * batch_size
        orders.append(tuple(np.asarray(order)))
    assert len(set(orders)) == 3
    assert tuple(np.asarray(data.order(key, jnp.asarray(1)))) == orders[1]


def test_steps_walk_through_the_order_of_their_epoch(key):
    """In the state, the order is that of the present epoch, drawn anew at its first step."""
    method = avb.gaussian_vae(ARCHITECTURE, key=key)
    state = start(method, CONFIG, key)
    orders = [
        np.asarray(run_to(state, until, CONFIG).order)
        for until in (1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1)
    ]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])
    assert all(sorted(order) == list(range(len(BYTES))) for order in orders)


# The step.


def telescoping(architecture: Architecture, *, key: Key) -> Method:
    """AVB with a learned mixture as contrast and a critic of several ratios."""
    sizes = architecture.width, architecture.latent_dim
    return dataclasses.replace(
        avb.avb_adaptive(architecture, key=key),
        contrast=MixtureContrast(*sizes, width=8, key=key),
        critic=TelescopingCritic(*sizes, width=8, key=key),
    )


def weighted(architecture: Architecture, *, key: Key) -> Method:
    """AVB on an importance-weighted bound."""
    return dataclasses.replace(avb.avb_adaptive(architecture, key=key), importance_samples=3)


def refined(architecture: Architecture, *, key: Key) -> Method:
    """AVB whose model learns from draws that Hamiltonian Monte Carlo has moved."""
    return dataclasses.replace(avb.avb_adaptive(architecture, key=key), hmc_transitions=2)


# One preset for each way in which the ELBO is computed, and for each kind of adversary.
@pytest.fixture(
    scope="module",
    params=[avb.flow_vae, avb.iwae, avb.sivi, avb.avb_adaptive, telescoping, weighted, refined],
    ids=lambda make: make.__name__,
)
def preset(request) -> tuple[Method, State, State]:
    """A preset's method, its first state and its state after two steps."""
    method = request.param(ARCHITECTURE, key=jax.random.key(1))
    first = start(method, CONFIG, jax.random.key(2))
    return method, first, run_to(first, 2, CONFIG)


def test_both_players_learn(preset):
    _, first, second = preset
    assert second.step == 2
    assert not np.any(second.faults.by_part)
    for before, after in zip(players(first.method), players(second.method), strict=True):
        leaves = jax.tree.leaves(before)
        assert not leaves or not eqx.tree_equal(before, after)


def test_no_recompilation_from_the_second_run_on(preset, caplog):
    _, first, second = preset
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        again = run_to(second, 3, CONFIG)
        run_to(first, 4, CONFIG)
    assert not [record for record in caplog.messages if "jit(run)" in record]
    assert again.step == 3


def test_same_key_same_bits(preset):
    _, first, second = preset
    assert_same_bits(second, run_to(first, 2, CONFIG))
    other = eqx.tree_at(lambda s: s.key, first, jax.random.key(77))
    assert not eqx.tree_equal(second.method, run_to(other, 2, CONFIG).method)


def test_one_run_or_many(preset):
    _, first, second = preset
    many = run_to(run_to(first, 1, CONFIG), 2, CONFIG)
    assert_same_bits(second, many)


def test_saved_and_loaded_state_goes_on_alike(preset, tmp_path):
    method, _, second = preset
    # A PRNG key has a type of its own; its words are what is stored.
    words = eqx.tree_at(lambda s: s.key, second, jax.random.key_data(second.key))
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", words)
    empty = start(method, CONFIG, jax.random.key(0))
    empty = eqx.tree_at(lambda s: s.key, empty, jax.random.key_data(empty.key))
    loaded = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", empty)
    loaded = eqx.tree_at(lambda s: s.key, loaded, jax.random.wrap_key_data(loaded.key))
    assert_same_bits(second, loaded)
    assert_same_bits(run_to(second, 3, CONFIG), run_to(loaded, 3, CONFIG))


@pytest.mark.slow
def test_step_without_compilation_is_the_same():
    method = avb.avb_adaptive(ARCHITECTURE, key=jax.random.key(1))
    state = start(method, CONFIG, jax.random.key(2))
    plain = step(state, DeviceData(BYTES, "binarise", CONFIG.batch_size), CONFIG)
    compiled = run_to(state, 1, CONFIG)
    for first, second in zip(
        jax.tree.leaves(eqx.filter(plain, eqx.is_inexact_array)),
        jax.tree.leaves(eqx.filter(compiled, eqx.is_inexact_array)),
        strict=True,
    ):
        # Adam's first step divides a gradient by its own size, so rounding shows where it is
        # tiny; a tenth of a learning rate is the most that it may move.
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def after_warmup() -> list[State]:
    """The states at steps 0, 3 and 4 of a run whose first three steps are the critic's alone."""
    config = dataclasses.replace(CONFIG, critic_warmup=3)
    key = jax.random.key(3)
    states = [start(avb.avb_adaptive(ARCHITECTURE, key=key), config, key)]
    for until in (3, 4):
        states.append(run_to(states[-1], until, config))
    return states


def test_warmup_of_the_critic_leaves_model_and_posterior_alone(after_warmup):
    first, third, fourth = after_warmup
    before, after = players(first.method), players(third.method)
    assert_same_bits(before[0], after[0])
    assert_same_bits(first.model_optimiser, third.model_optimiser)
    assert_same_bits(first.average[0], third.average[0])
    assert not eqx.tree_equal(before[1], after[1])
    assert not eqx.tree_equal(after[0], players(fourth.method)[0])


@pytest.fixture(scope="module")
def without_critic() -> tuple[State, State]:
    """The first and the third state of a method without a critic, not averaged."""
    config = dataclasses.replace(CONFIG, critic_warmup=3, ema_decay=0.0)
    key = jax.random.key(3)
    first = start(avb.gaussian_vae(ARCHITECTURE, key=key), config, key)
    return first, run_to(first, 2, config)


def test_warmup_of_the_critic_is_nothing_without_a_critic(without_critic):
    first, third = without_critic
    assert not eqx.tree_equal(players(first.method)[0], players(third.method)[0])


def test_average_is_off_at_zero(without_critic):
    _, third = without_critic
    assert_same_bits(third.averaged, third.method)


CLIP = 1e-3


@pytest.fixture(scope="module")
def after_one_and_two() -> tuple[State, State]:
    """The states after one and two steps with three critic updates each, hard clipped."""
    config = dataclasses.replace(CONFIG, critic_steps=3, clip_norm=CLIP)
    key = jax.random.key(3)
    method = avb.avb_adaptive(ARCHITECTURE, key=key)
    learned = GaussianContrast(ARCHITECTURE.width, ARCHITECTURE.latent_dim, key=key)
    first = run_to(start(dataclasses.replace(method, contrast=learned), config, key), 1, config)
    return first, run_to(first, 2, config)


def test_critic_takes_as_many_updates_a_step_as_asked_for(after_one_and_two):
    _, second = after_one_and_two
    assert int(second.model_optimiser[0].count) == 2
    assert int(second.adversary_optimiser[0].count) == 6


def test_clipped_gradient_is_what_adam_sees(after_one_and_two):
    first, _ = after_one_and_two
    # After one update the first moment is a tenth of the gradient.
    norm = 10.0 * np.sqrt(squared_norm(first.model_optimiser[0].mu))
    np.testing.assert_allclose(norm, CLIP, rtol=1e-4)
    # Three updates with gradients g of norm CLIP: a weighted sum of them, at most so long.
    bound = CLIP * (1.0 - 0.9**3)
    norm = np.sqrt(squared_norm(first.adversary_optimiser[0].mu))
    assert 0.1 * bound < norm <= bound * (1 + 1e-4)
    # The norms reported are those before clipping.
    assert np.all(first.sums.norms > CLIP)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_momentum_is_what_a_past_gradient_still_moves(momentum):
    """After a gradient of 1 and one of 0, Adam's mean is β1 (1 − β1) over 1 − β1²."""
    constant = {"final_rate": 1.0, "critic_final_rate": 1.0}
    for adam in optimisers(FitConfig(momentum=momentum, **constant), 10):
        _, state = adam.update(jnp.ones(()), adam.init(jnp.zeros(())))
        update, _ = adam.update(jnp.zeros(()), state)
        expected = momentum / (1 + momentum) / np.sqrt(0.999 / 1.999)
        rates = (FitConfig().learning_rate, FitConfig().critic_learning_rate)
        assert min(abs(float(-update) / rate - expected) for rate in rates) < 1e-4


def test_the_rate_of_each_player_falls_to_its_own_share():
    config = FitConfig(final_rate=0.1, critic_final_rate=0.6)
    for adam, peak, share in zip(
        optimisers(config, 10),
        (config.learning_rate, config.critic_learning_rate),
        (config.final_rate, config.critic_final_rate),
        strict=True,
    ):
        state, rates = adam.init(jnp.zeros(())), []
        for _ in range(11):
            # Of gradients that are all alike, Adam's update is its rate.
            update, state = adam.update(jnp.ones(()), state)
            rates.append(-float(update))
        assert abs(rates[0] / peak - 1.0) < 1e-3
        assert abs(rates[-1] / peak - share) < 1e-3


def test_average_differs_from_the_last_parameters_but_not_in_kind(after_one_and_two):
    _, second = after_one_and_two
    averaged = second.averaged
    assert jax.tree.structure(averaged) == jax.tree.structure(second.method)
    assert not eqx.tree_equal(averaged.posterior, second.method.posterior)
    assert not eqx.tree_equal(averaged.contrast, second.method.contrast)
    assert not eqx.tree_equal(averaged.critic, second.method.critic)


def test_weight_of_the_warm_up_rises_to_one():
    config = FitConfig(kl_warmup=2.0)
    weights = [float(_kl_weight(config, jnp.asarray(s), 5)) for s in (0, 1, 5, 10, 11, 1000)]
    np.testing.assert_allclose(weights, [0.0, 0.1, 0.5, 1.0, 1.0, 1.0], rtol=1e-6)
    assert _kl_weight(FitConfig(kl_warmup=0.0), jnp.asarray(0), 5) == 1
    assert _kl_weight(FitConfig(epochs=10), jnp.asarray(5), 5) == 0.5


@pytest.mark.parametrize("norm", [0.0, 1e-3, 1.0, 50.0, 1e4])
def test_clip_bounds_the_norm_and_leaves_small_gradients(norm):
    scale = float(_clip(jnp.asarray(norm**2), 5.0))
    np.testing.assert_allclose(scale * norm, min(norm, 5.0), rtol=1e-5)


def test_average_follows_the_parameters():
    decay, value, target = 0.9, 0.0, 1.0
    move = jax.jit(_average, static_argnums=3)
    average = {"w": jnp.asarray(value)}
    for index in range(200):
        average = move(average, {"w": jnp.asarray(target)}, jnp.asarray(index), decay)
        if index % AVERAGE_EVERY == 0:
            kept = min(decay**AVERAGE_EVERY, (1 + index) / (10 * AVERAGE_EVERY + index))
            value += (1 - kept) * (target - value)
        np.testing.assert_allclose(average["w"], value, rtol=1e-5)
    assert value > 0.99


# The guard.

MARK = 100.0


class MarkedEncoder(eqx.Module):
    """Features tanh(x) and whether the datum is marked; NaN for marked data if so asked."""

    weight: Array
    breaks: bool = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        is_marked = jnp.any(x >= MARK)
        features = self.weight * jnp.tanh(x)
        if self.breaks:
            features = jnp.where(is_marked, jnp.nan, features)
        return jnp.append(features, is_marked.astype(x.dtype))


class MarkedContrast(AbstractContrast):
    """A Gaussian around the frame whose scale is NaN for marked data if so asked."""

    raw: Array
    breaks: bool = eqx.field(static=True)
    is_learned = True

    def condition(self, posterior, prior: dist.Distribution, features: Features, key: Key):
        frame = posterior.frame(features)
        log_scale = frame.log_scale + self.raw
        if self.breaks:
            log_scale = jnp.where(features[-1] > 0, jnp.nan, log_scale)
        return DiagonalGaussian(frame.loc, log_scale)


class MarkedCritic(AbstractCritic):
    """A residual critic that is NaN for marked data if so asked."""

    inner: ResidualCritic
    breaks: bool = eqx.field(static=True)

    def features(self, x: Array, posterior_features: Array) -> Array:
        seen = self.inner.features(x, posterior_features)
        return jnp.append(seen, posterior_features[-1])

    def evaluate(self, features: Array, white: Array) -> Array:
        value = self.inner.evaluate(features[:-1], white)
        return jnp.where(features[-1] > 0, jnp.nan, value) if self.breaks else value


def marked_data(*marked: int, count: int = 8) -> np.ndarray:
    """Data of which the given ones are marked; squares of 1e30 overflow in the likelihood."""
    rows = np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)
    rows[list(marked)] = 1e30
    return rows


def fragile(part: str, key: Key) -> Method:
    """A method whose named part is not finite at marked data, and no other part before it."""
    keys = jax.random.split(key, 4)
    decoder = AffineDecoder(eqx.nn.Linear(D, 3, key=keys[0]))
    model = LatentVariableModel(standard_normal(D), decoder, FixedNormal(1.0), (3,))
    encoder = MarkedEncoder(jnp.ones(3), part == "encoder")
    posterior = ImplicitPosterior(
        encoder, data_shape=(3,), latent_dim=D, width=4, depth=1, key=keys[1]
    )
    return Method(
        model,
        posterior,
        MarkedContrast(jnp.zeros(D), part == "contrast"),
        MarkedCritic(ResidualCritic(4, D, width=4, depth=1, key=keys[2]), part == "critic"),
        Logistic(),
    )


def fragile_data(part: str, *marked: int) -> np.ndarray:
    """Marked data; only for the decoder are they so large that the likelihood overflows."""
    rows = marked_data(*marked)
    return rows if part == "decoder" else np.minimum(rows, MARK)


GUARDED = FitConfig(epochs=4, batch_size=2, max_skipped=3)


@pytest.mark.parametrize("part", PARTS)
def test_non_finite_step_is_skipped_and_counted_under_its_part(part, key):
    raw = fragile_data(part, 3)
    method = fragile(part, key)
    state = start(method, GUARDED, key, raw)
    skipped = 0
    for index in range(2 * len(raw) // GUARDED.batch_size):
        after = run_to(state, index + 1, GUARDED, raw)
        batch = np.asarray(after.order)[2 * (index % 4) : 2 * (index % 4) + 2]
        if 3 in batch:
            skipped += 1
            assert_same_bits(state.method, after.method)
            assert_same_bits(state.model_optimiser, after.model_optimiser)
            assert_same_bits(state.adversary_optimiser, after.adversary_optimiser)
            assert after.faults.in_a_row == state.faults.in_a_row + 1
            assert_same_bits(state.sums, after.sums)
        else:
            assert after.faults.in_a_row == 0
            assert not eqx.tree_equal(players(state.method)[0], players(after.method)[0])
        state = after
    # One batch of each of the two epochs holds the marked datum.
    assert skipped == 2
    assert list(state.faults.by_part) == [2 * (name == part) for name in PARTS]
    assert all_finite((state.method, state.average, state.sums))


@pytest.mark.parametrize("part", PARTS)
def test_training_stops_after_too_many_skipped_steps(part, key):
    raw = fragile_data(part, *range(8))
    method = fragile(part, key)
    with pytest.raises(TrainingError) as caught:
        avb.fit(method, raw, config=GUARDED, key=key)
    counts = ", ".join(f"{name} {3 * (name == part)}" for name in PARTS)
    assert str(caught.value) == (
        f"training stopped at step 3: 3 steps in a row gave non-finite numbers, first in the {part}"
        f" (skipped steps so far: {counts}); the last good parameters are kept: try a lower "
        "learning rate or check the data's range"
    )
    state = caught.value.state
    assert isinstance(state, State)
    assert_same_bits(players(state.method), players(method))


def test_training_that_may_not_raise_tells_its_outcome(key):
    raw = fragile_data("decoder", *range(8))
    result = avb.fit(fragile("decoder", key), raw, config=GUARDED, key=key, throw=False)
    assert result.outcome is Outcome.NON_FINITE
    assert result.state.step == 3
    assert all_finite(result.method)


def terms(**values: float) -> Terms:
    names = [field.name for field in dataclasses.fields(Terms)]
    return Terms(**{name: jnp.asarray(values.get(name, 0.0)) for name in names})


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"latent": np.inf, "log_likelihood": np.nan, "critic": np.nan}, "encoder"),
        ({"log_likelihood": -np.inf}, "decoder"),
        ({"log_contrast": np.nan, "critic": np.nan}, "contrast"),
        ({"critic": np.inf}, "critic"),
        ({"critic_loss": np.inf}, "critic"),
    ],
)
def test_values_name_the_first_part_in_the_order_of_evaluation(values, part):
    ok, found = part_at_fault(terms(**values), jnp.ones(4))
    assert not ok
    assert PARTS[int(found)] == part


def test_finite_step_is_fine():
    ok, _ = part_at_fault(terms(), jnp.array([0.0, 1.0, 2.0, 3.0]))
    assert ok


class KinkedDecoder(eqx.Module):
    """A decoder with finite values whose own gradient is NaN: √ of a square, at zero."""

    linear: eqx.nn.Linear

    def __call__(self, z: Array) -> Array:
        zero = 0.0 * self.linear(z)
        return (self.linear(z) + jnp.sqrt(zero**2))[None, :]


def test_gradients_name_the_part_that_made_them(key):
    """Backwards, a NaN spreads from the decoder to the encoder, not the other way round."""
    method = fragile("none", key)
    decoder = KinkedDecoder(method.model.decoder.linear)
    method = eqx.tree_at(lambda m: m.model.decoder, method, decoder)
    state = run_to(start(method, GUARDED, key, marked_data()), 1, GUARDED, marked_data())
    assert list(state.faults.by_part) == [name == "decoder" for name in PARTS]


@pytest.mark.parametrize(
    "tree",
    [jnp.arange(3.0), [jnp.ones((2, 3, 4)), jnp.asarray(2.0)], {}, {"a": None, "b": jnp.ones(5)}],
)
def test_squared_norm(tree):
    expected = sum(float(np.sum(np.asarray(leaf) ** 2)) for leaf in jax.tree.leaves(tree))
    np.testing.assert_allclose(squared_norm(tree), expected)


# The driver.


def fitted(method: Method, key: Key, **options) -> avb.FitResult:
    return avb.fit(method, BYTES, config=CONFIG, key=key, **options)


@pytest.fixture(scope="module", params=["gaussian_vae", "avb_adaptive"])
def unbroken(request) -> tuple[Method, avb.FitResult]:
    method = avb.PRESETS[request.param](ARCHITECTURE, key=jax.random.key(5))
    return method, fitted(method, jax.random.key(6))


def test_fit_takes_all_steps_and_leaves_its_method_alone(unbroken):
    method, result = unbroken
    assert result.outcome is Outcome.COMPLETED
    assert result.state.step == CONFIG.epochs * STEPS_PER_EPOCH
    assert result.history[-1]["step"] == result.state.step
    assert result.history[-1]["epoch"] == CONFIG.epochs
    assert all(np.isfinite(value) for value in result.history[-1].values())
    fresh = method.posterior.encoder(jnp.zeros(SHAPE))
    assert np.isfinite(fresh).all()
    assert_same_bits(result.method, result.state.averaged)


def test_fit_again_is_the_same_bits(unbroken):
    method, result = unbroken
    again = fitted(method, jax.random.key(6))
    assert_same_bits(result.state, again.state)
    assert result.history == again.history


@pytest.mark.parametrize("stop_at", [1, 7, 23])
def test_stopped_and_resumed_fit_is_the_unbroken_one(unbroken, stop_at, monkeypatch):
    method, result = unbroken
    monkeypatch.setattr(_fit, "_next_stretch", lambda *_: 2)
    first = fitted(method, jax.random.key(6), on_progress=lambda now: now.step >= stop_at)
    assert first.outcome is Outcome.STOPPED
    assert stop_at <= first.state.step < result.state.step
    second = fitted(method, jax.random.key(99), init_state=first.state)
    assert second.outcome is Outcome.COMPLETED
    assert_same_bits(result.state, second.state)
    assert first.history + second.history == result.history
    # The first result is still there to be used: its buffers were not donated.
    assert all_finite(first.state.method)


@pytest.mark.parametrize("length", [1, 4, 1000])
def test_fit_does_not_depend_on_the_length_of_its_stretches(unbroken, length, monkeypatch):
    method, result = unbroken
    monkeypatch.setattr(_fit, "_next_stretch", lambda *_: length)
    again = fitted(method, jax.random.key(6))
    assert_same_bits(result.state, again.state)
    assert result.history == again.history


def test_reports_come_at_fixed_steps(unbroken, monkeypatch):
    method, _ = unbroken
    monkeypatch.setattr(_fit, "REPORT_STEPS", 10)
    steps, epochs = [], []

    def tell(now: avb.Progress) -> None:
        assert now.total_steps == 30
        epochs.append(now.epoch)
        if now.metrics is not None:
            steps.append(now.metrics["step"])

    result = fitted(method, jax.random.key(6), on_progress=tell)
    # Whole epochs of five steps, at least ten steps.
    assert steps == [10, 20, 30] == [metrics["step"] for metrics in result.history]
    assert epochs == sorted(epochs)


def test_validation_elbo_is_reported(key):
    method = avb.gaussian_vae(ARCHITECTURE, key=key)
    validation = (BYTES[:10] > 127).astype(np.float32)
    config = dataclasses.replace(CONFIG, epochs=1)
    result = avb.fit(method, BYTES, config=config, key=key, validation=validation)
    exact = avb.elbo(result.method.model, result.method.posterior, validation, key=key, draws=500)
    assert abs(result.history[-1]["validation_elbo"] - exact.mean) < 1.0


def test_next_stretch_grows_and_stays_in_bounds():
    next_stretch: Callable[[int, int, float], int] = _fit._next_stretch
    assert next_stretch(1, 1, 10.0) == 1
    assert next_stretch(1, 1, 1e-6) == 10
    assert next_stretch(100, 100, 1.0) == 50
    # A stretch cut short by a report says little.
    assert next_stretch(100, 3, 0.01) == 100


@pytest.mark.slow
def test_training_improves_the_elbo(key):
    rows = np.tile(np.array([[0, 0, 0, 255, 255, 255]], np.uint8), (64, 1))
    method = avb.avb_adaptive(ARCHITECTURE, key=key)
    config = FitConfig(
        epochs=100, batch_size=16, learning_rate=1e-2, critic_learning_rate=1e-2, ema_decay=0.9
    )
    result = avb.fit(method, rows, config=config, key=key)
    before = avb.critic_elbo(method, (rows / 255).astype(np.float32), key=key)
    after = avb.critic_elbo(result.method, (rows / 255).astype(np.float32), key=key)
    # Constant data: the model can reach log p(x) = 0.
    assert before.mean < -4.0
    assert -0.5 < after.mean < 0.1
