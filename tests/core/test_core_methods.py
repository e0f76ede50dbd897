"""Properties that hold for every posterior, contrast, critic and objective that fit together."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jaxtyping import Array, PyTree

import avb
from avb import Architecture, Method
from avb._types import Key
from avb.contrasts import (
    AbstractContrast,
    AnchoredSelfContrast,
    FlowContrast,
    GaussianContrast,
    MixtureContrast,
    MomentContrast,
    PriorContrast,
    SelfContrast,
)
from avb.critics import AbstractCritic, ResidualCritic, TelescopingCritic
from avb.models import FamilyLikelihood, FixedNormal
from avb.nets import MLPEncoder
from avb.objectives import (
    DonskerVaradhan,
    KLDual,
    LeastSquares,
    Logistic,
    WeightedLogistic,
)
from avb.posteriors import (
    AbstractPosterior,
    BasisPosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    SemiImplicitPosterior,
)
from avb.training import Terms, total_loss
from avb.training._contest import _draws_to_fit, adversary_loss, contest
from avb.training._draws import drawn

D, WIDTH, N = 2, 8, 4
SHAPE = (3,)
ARCHITECTURE = Architecture(SHAPE, D, width=WIDTH, depth=1)

POSTERIORS: dict[str, Callable[..., AbstractPosterior]] = {
    "gaussian": GaussianPosterior,
    "full gaussian": FullGaussianPosterior,
    "flow": lambda *args, **kw: FlowPosterior(*args, layers=2, width=8, **kw),
    "implicit": lambda *args, **kw: ImplicitPosterior(*args, width=8, **kw),
    "basis": lambda *args, **kw: BasisPosterior(*args, num_basis=3, width=8, **kw),
    "semi-implicit": lambda *args, **kw: SemiImplicitPosterior(*args, width=8, **kw),
}
CONTRASTS: dict[str, Callable[[Key], AbstractContrast]] = {
    "prior": lambda key: PriorContrast(),
    "diagonal moments": lambda key: MomentContrast("diagonal", 8),
    "full moments": lambda key: MomentContrast("full", 8),
    "diagonal gaussian": lambda key: GaussianContrast(
        WIDTH, D, covariance="diagonal", width=8, key=key
    ),
    "full gaussian": lambda key: GaussianContrast(WIDTH, D, covariance="full", width=8, key=key),
    "mixture": lambda key: MixtureContrast(WIDTH, D, components=3, width=8, key=key),
    "flow": lambda key: FlowContrast(WIDTH, D, layers=2, width=8, key=key),
    "anchored self": lambda key: AnchoredSelfContrast(4, num_components=4),
}
CRITICS: dict[str, Callable[[Key], AbstractCritic]] = {
    "posterior's features": lambda key: ResidualCritic(WIDTH, D, width=8, key=key),
    "quadratic": lambda key: ResidualCritic(WIDTH, D, width=8, depth=1, quadratic=True, key=key),
    "own features": lambda key: ResidualCritic(
        5, D, width=8, depth=1, key=key, encoder=MLPEncoder(SHAPE, width=5, depth=1, key=key)
    ),
    "telescoping": lambda key: TelescopingCritic(
        WIDTH, D, waymarks=(0.4, 0.8), width=8, depth=1, key=key
    ),
}
OBJECTIVES = (KLDual(), Logistic(), WeightedLogistic(), DonskerVaradhan(), LeastSquares())


def adversarial(
    posterior: str, contrast: str, critic: str, objective, draws: int, key: Key
) -> Method:
    keys = jax.random.split(key, 5)
    encoder = ARCHITECTURE.build_encoder(key=keys[0])
    return Method(
        ARCHITECTURE.build_model(key=keys[1]),
        POSTERIORS[posterior](encoder, data_shape=SHAPE, latent_dim=D, key=keys[2]),
        CONTRASTS[contrast](keys[3]),
        CRITICS[critic](keys[4]),
        objective,
        contrast_draws=draws,
    )


def pairs() -> list[tuple[str, str]]:
    """Every posterior with every contrast that fits it."""
    return [
        (posterior, contrast)
        for posterior in POSTERIORS
        for contrast in CONTRASTS
        if contrast != "anchored self" or posterior == "semi-implicit"
    ]


class Case(NamedTuple):
    """One way to make a method, and a datum's shape and values.

    ``apart`` asks for the ELBO's gradient by itself as well, which doubles the compile time.
    """

    make: Callable[[Key], Method]
    apart: bool = False
    shape: tuple[int, ...] = SHAPE
    values: Callable[[Key, tuple[int, ...]], Array] = lambda key, shape: jax.random.bernoulli(
        key, 0.5, shape
    ).astype(jnp.float32)

    def batch(self, key: Key) -> Array:
        return self.values(key, (N, *self.shape))


def counts(key: Key, shape: tuple[int, ...]) -> Array:
    """Small counts, as floats."""
    return jax.random.randint(key, shape, 0, 3).astype(jnp.float32)


def of_likelihood(likelihood, *, values=counts) -> Case:
    architecture = Architecture(
        SHAPE, D, width=WIDTH, depth=1, likelihood=likelihood, num_classes=3
    )
    return Case(lambda key: avb.gaussian_vae(architecture, key=key), values=values)


def parts_of(index: int, posterior: str, contrast: str) -> tuple:
    """A pair of posterior and contrast with a critic, an objective and a number of draws."""
    critic = tuple(CRITICS)[index % len(CRITICS)]
    return posterior, contrast, critic, OBJECTIVES[index % len(OBJECTIVES)], 1 + index // 3 % 3


def name_of(parts: tuple) -> str:
    posterior, contrast, critic, objective, _ = parts
    return f"{posterior}, {contrast}, {critic}, {type(objective).__name__}"


# To compile every pair takes minutes: these have every contrast with a purely implicit and with
# a semi-implicit posterior, and every posterior with a learned contrast. The rest is traced.
PAIRS = [parts_of(index, *pair) for index, pair in enumerate(pairs())]
COMPILED = [
    parts
    for parts in PAIRS
    if parts[0] in ("implicit", "semi-implicit") or parts[1] == "full gaussian"
]
CASES: dict[str, Case] = {
    name_of(parts): Case(
        lambda key, parts=parts: adversarial(*parts, key),
        apart=parts[0] == "semi-implicit" or parts[1] == "full gaussian",
    )
    for parts in COMPILED
}
for name, preset in avb.PRESETS.items():
    CASES[f"preset {name}"] = Case(lambda key, preset=preset: preset(ARCHITECTURE, key=key))
CASES["importance weights"] = Case(
    lambda key: dataclasses.replace(
        adversarial("implicit", "full gaussian", "posterior's features", Logistic(), 2, key),
        importance_samples=3,
    )
)
CASES["more draws to fit"] = Case(
    lambda key: dataclasses.replace(
        adversarial("implicit", "full gaussian", "posterior's features", Logistic(), 1, key),
        fit_draws=3,
        posterior_draws=2,
    ),
    apart=True,
)
for name, shape in (("gaussian_vae", (4, 5, 3)), ("avb", (5, 6))):
    images = Architecture(shape, D, network="conv", width=WIDTH)
    CASES[f"convolutional {name} {shape}"] = Case(
        lambda key, name=name, images=images: avb.PRESETS[name](images, key=key),
        shape=shape,
    )
for name in ("bernoulli", "poisson", "negative-binomial", "categorical"):
    CASES[f"likelihood {name}"] = of_likelihood(
        name, values=Case._field_defaults["values"] if name == "bernoulli" else counts
    )
for name in ("normal", "pixel-normal"):
    CASES[f"likelihood {name}"] = of_likelihood(name, values=jax.random.normal)
CASES["likelihood fixed normal"] = of_likelihood(FixedNormal(0.5), values=jax.random.normal)
CASES["likelihood of a family"] = of_likelihood(
    FamilyLikelihood(lambda p: dist.StudentT(4.0, p[0], 0.1), 1), values=jax.random.normal
)
CASES["full gaussian posterior alone"] = Case(
    lambda key: Method(
        ARCHITECTURE.build_model(key=key),
        FullGaussianPosterior(
            ARCHITECTURE.build_encoder(key=key), data_shape=SHAPE, latent_dim=D, key=key
        ),
    )
)


def model_and_posterior(tree: Method) -> PyTree:
    return tree.model, tree.posterior


def contrast_and_critic(tree: Method) -> PyTree:
    return tree.contrast, tree.critic


def leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """The inexact arrays by their path."""
    arrays = eqx.filter(tree, eqx.is_inexact_array)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


class Probe(NamedTuple):
    """What one batch tells of a method."""

    loss: Array
    terms: Terms
    total: Method
    elbo: Method | None
    draws: Array


def probe(method: Method, x: Array, key: Key, apart: bool) -> Probe:  # noqa: FBT001
    one = jnp.ones(())
    (loss, terms), total = eqx.filter_value_and_grad(total_loss, has_aux=True)(method, x, key, one)
    elbo = None
    if apart:
        elbo = eqx.filter_grad(lambda method: -total_loss(method, x, key, one)[1].elbo)(method)
    draws = method.posterior.sample(key, x[0], (2, 3))
    return Probe(loss, terms, total, elbo, draws)


def descend(method: Method, gradient: Method) -> Method:
    """A small step of both players downhill."""
    return eqx.apply_updates(method, jax.tree.map(lambda g: -0.05 * g, gradient))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_players_and_their_gradients(case, key):
    key_method, key_data, key_probe = jax.random.split(key, 3)
    method, x = case.make(key_method), case.batch(key_data)
    compiled = eqx.filter_jit(probe)
    first = compiled(method, x, key_probe, case.apart)

    assert first.draws.shape == (2, 3, D)
    assert {name: value.shape for name, value in vars(first.terms).items()} == dict.fromkeys(
        vars(first.terms), ()
    )
    assert np.isfinite(first.loss)
    assert all(np.isfinite(value) for value in vars(first.terms).values())
    parts = first.terms
    np.testing.assert_allclose(
        parts.elbo,
        parts.log_likelihood + parts.log_prior - parts.log_contrast - parts.critic,
        rtol=1e-4,
        atol=1e-4,
    )

    # Some last layers start at zero; what lies before them learns after a step or two.
    learnt: dict[str, bool] = {}
    present = first
    for _ in range(3):
        for name, gradient in leaves(present.total).items():
            assert np.isfinite(gradient).all(), name
            learnt[name] = learnt.get(name, False) or bool(np.any(gradient != 0))
        method = descend(method, present.total)
        present = compiled(method, x, key_probe, case.apart)
    # The prior is held fixed, and so are anchors.
    fixed = [".model.prior", ".contrast.anchors"]
    if isinstance(method.objective, DonskerVaradhan):
        # A constant added to T does not change this objective.
        fixed.append(".critic.output.bias")
    still = {name for name in learnt if name.startswith(tuple(fixed))}
    assert {name for name, moved in learnt.items() if not moved} - still == set()
    for name in still - {".critic.output.bias"}:
        assert not learnt[name], name

    # The loss is minus the ELBO plus the adversary's loss. So where these agree and vanish, the
    # adversary's loss moves neither model nor posterior, the ELBO neither contrast nor critic.
    if present.elbo is None:
        return
    for name, gradient in leaves(contrast_and_critic(present.elbo)).items():
        assert not np.any(gradient), name
    own = leaves(model_and_posterior(present.elbo))
    for name, gradient in leaves(model_and_posterior(present.total)).items():
        scale = np.abs(gradient).max(initial=0.0)
        np.testing.assert_allclose(gradient, own[name], atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("parts", [p for p in PAIRS if p not in COMPILED], ids=name_of)
def test_other_pairs_trace_to_a_loss(parts):
    method = adversarial(*parts, jax.random.key(0))
    loss, terms = eqx.filter_eval_shape(
        total_loss, method, jnp.zeros((N, *SHAPE)), jax.random.key(1), jnp.ones(())
    )
    assert loss.shape == ()
    assert {leaf.shape for leaf in jax.tree.leaves(terms)} == {()}


@pytest.mark.parametrize("preset", ["avb", "avb_adaptive", "avb_self"])
def test_adversary_alone_moves_contrast_and_critic_alone(preset, key):
    method = avb.PRESETS[preset](ARCHITECTURE, key=key)
    # Away from the zeros of its output layer, T depends on all that it may.
    output = jax.tree.map(lambda leaf: leaf + 0.3, method.critic.output)
    method = eqx.tree_at(lambda m: m.critic.output, method, output)
    x = CASES[f"preset {preset}"].batch(key)

    def loss(method: Method) -> Array:
        features = jax.vmap(method.posterior.encoder)(x)
        z = jax.vmap(method.posterior.draw)(features, jax.random.split(key, len(x)))
        return adversary_loss(method, contest(method, x, features, z, key))[0]

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(method)
    for name, leaf in leaves(model_and_posterior(gradient)).items():
        assert not np.any(leaf), name
    moved = [name for name, leaf in leaves(contrast_and_critic(gradient)).items() if np.any(leaf)]
    assert any("[1].output" in name for name in moved)
    assert any("[0].head" in name for name in moved) == method.contrast.is_learned


# One of each contrast that is the same for every draw: sampled moments have noise of their own.
DRAWN = [f"preset {name}" for name in avb.PRESETS if name != "flow_vae"] + [
    name_of(parts)
    for parts in COMPILED
    if parts[0] == "implicit" and parts[1] in ("full gaussian", "mixture", "flow")
]


@pytest.mark.parametrize("name", DRAWN)
def test_draws_a_datum_are_as_good_as_repeated_data(name, key):
    method = CASES[name].make(key)
    several = dataclasses.replace(method, posterior_draws=3)
    x = CASES[name].batch(key)
    compiled = eqx.filter_jit(eqx.filter_value_and_grad(total_loss, has_aux=True))
    (loss, _), gradient = compiled(several, x, key, jnp.ones(()))
    (expected, _), rows = compiled(method, jnp.repeat(x, 3, axis=0), key, jnp.ones(()))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    by_name = leaves(rows)
    for leaf_name, leaf in leaves(gradient).items():
        scale = np.abs(by_name[leaf_name]).max(initial=0.0)
        np.testing.assert_allclose(leaf, by_name[leaf_name], atol=1e-4 * scale, err_msg=leaf_name)


def test_a_contrast_is_fitted_to_each_draw_and_further_ones_of_its_datum(key):
    method = CASES["more draws to fit"].make(key)
    posterior, count = method.posterior, 2000
    features = jax.vmap(posterior.encoder)(CASES["more draws to fit"].batch(key))
    z = jax.random.normal(key, (2 * N, D))
    fitted = _draws_to_fit(posterior, features, z, 1 + count, key)
    assert fitted.shape == (2 * N, 1 + count, D)
    np.testing.assert_array_equal(fitted[:, 0], z)
    expected = jax.vmap(posterior.sample, in_axes=(0, 0, None))(
        jax.random.split(key, N), CASES["more draws to fit"].batch(key), (count,)
    )
    error = 6.0 * jnp.std(expected, axis=1) / np.sqrt(count)
    for row in range(2 * N):
        gap = jnp.mean(fitted[row, 1:], axis=0) - jnp.mean(expected[row // 2], axis=0)
        assert np.all(np.abs(gap) < error[row // 2])
    np.testing.assert_array_equal(_draws_to_fit(posterior, features, z, 1, key), z[:, None])


@pytest.mark.parametrize("preset", [name for name in avb.PRESETS if name != "sivi"])
def test_every_preset_but_the_self_contrast_traces_to_a_weighted_loss(preset, key):
    method = dataclasses.replace(avb.PRESETS[preset](ARCHITECTURE, key=key), importance_samples=3)
    several = dataclasses.replace(method, posterior_draws=2)
    for each in (method, several):
        loss, terms = eqx.filter_eval_shape(
            total_loss, each, jnp.zeros((N, *SHAPE)), jax.random.key(1), jnp.ones(())
        )
        assert loss.shape == ()
        assert {leaf.shape for leaf in jax.tree.leaves(terms)} == {()}


def test_weights_leave_contrast_and_critic_to_the_adversary(key):
    method, x = CASES["importance weights"].make(key), CASES["importance weights"].batch(key)
    bias = jnp.asarray(0.3)
    method = eqx.tree_at(lambda m: m.critic.output.bias, method, bias)

    def of_all(method: Method) -> Array:
        return total_loss(method, x, key, jnp.ones(()))[0]

    def of_adversary(method: Method) -> Array:
        key_z, key_contest = jax.random.split(key)
        features = jax.vmap(method.posterior.encoder)(x)
        first = drawn(method, features, key_z, times=3)[::3]
        return adversary_loss(method, contest(method, x, features, first, key_contest))[0]

    expected = leaves(contrast_and_critic(eqx.filter_jit(eqx.filter_grad(of_adversary))(method)))
    found = leaves(contrast_and_critic(eqx.filter_jit(eqx.filter_grad(of_all))(method)))
    assert any(np.any(leaf) for leaf in found.values())
    for name, leaf in found.items():
        scale = np.abs(expected[name]).max(initial=0.0)
        np.testing.assert_allclose(leaf, expected[name], atol=1e-5 * scale, err_msg=name)


def test_weight_of_the_divergence(key):
    method = avb.sivi(ARCHITECTURE, num_components=3, key=key)
    x = CASES["preset sivi"].batch(key)
    for beta in (0.0, 0.3, 1.0):
        loss, terms = eqx.filter_jit(total_loss)(method, x, key, jnp.asarray(beta))
        divergence = terms.log_contrast - terms.log_prior
        np.testing.assert_allclose(loss, beta * divergence - terms.log_likelihood, rtol=1e-5)


def test_critic_starts_at_zero(key):
    critic = ResidualCritic(WIDTH, D, key=key)
    seen = critic.features(jnp.zeros(SHAPE), jnp.ones(WIDTH))
    assert critic.evaluate(seen, jnp.array([3.0, -2.0])) == 0


def test_self_contrast_shares_parameters_with_the_posterior_alone(key):
    method = avb.sivi(ARCHITECTURE, key=key)
    assert isinstance(method.contrast, SelfContrast)
    assert not jax.tree.leaves(eqx.filter(method.contrast, eqx.is_array))


@pytest.mark.parametrize(
    ("preset", "default"),
    [("avb", (128, 2)), ("avb_adaptive", (128, 2)), ("sivi", (64, 1)), ("avb_self", (64, 1))],
)
def test_noise_sizes_are_those_of_the_network_between_noise_and_draw(preset, default, key):
    def sizes(**given: int) -> tuple[int, int]:
        method = avb.PRESETS[preset](dataclasses.replace(ARCHITECTURE, **given), key=key)
        posterior = method.posterior
        assert isinstance(posterior, ImplicitPosterior | SemiImplicitPosterior)
        # A semi-implicit posterior's first layer, which takes the noise, stands apart.
        first = isinstance(posterior, SemiImplicitPosterior)
        return posterior.network.width_size, posterior.network.depth + first

    assert sizes() == default
    assert sizes(noise_width=5, noise_depth=3) == (5, 3)
    assert sizes(noise_width=5) == (5, default[1])


@pytest.mark.parametrize(("preset", "default"), [("avb", 4.0), ("avb_adaptive", 1.0)])
def test_noise_reach_is_that_of_the_implicit_posterior(preset, default, key):
    def reach(architecture: Architecture) -> float:
        posterior = avb.PRESETS[preset](architecture, key=key).posterior
        assert isinstance(posterior, ImplicitPosterior)
        return posterior.reach

    assert reach(ARCHITECTURE) == default
    assert reach(dataclasses.replace(ARCHITECTURE, noise_reach=2.5)) == 2.5
