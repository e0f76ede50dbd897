"""What a user reads when parts or settings do not fit: the whole sentence, word for word."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import avb
from avb import Architecture, ConfigError, DataError, FitConfig, Method
from avb.contrasts import (
    AnchoredSelfContrast,
    FlowContrast,
    GaussianContrast,
    MomentContrast,
    PriorContrast,
    SelfContrast,
)
from avb.critics import ResidualCritic
from avb.models import (
    Bernoulli,
    Categorical,
    DecodedNormal,
    FixedNormal,
    LatentVariableModel,
    PixelNormal,
)
from avb.objectives import Logistic
from avb.posteriors import (
    FlowPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    SemiImplicitPosterior,
)

D, WIDTH, SHAPE = 2, 4, (3,)
KEY = jax.random.key(0)
PLACE = {"data_shape": SHAPE, "latent_dim": D, "key": KEY}
ARCHITECTURE = Architecture(SHAPE, D, width=WIDTH, depth=1)


@pytest.fixture(scope="module")
def model() -> LatentVariableModel:
    return ARCHITECTURE.build_model(key=KEY)


def encoder() -> Callable:
    return eqx.nn.Linear(3, WIDTH, key=KEY)


def gaussian() -> GaussianPosterior:
    return GaussianPosterior(encoder(), **PLACE)


def implicit() -> ImplicitPosterior:
    return ImplicitPosterior(encoder(), width=4, **PLACE)


def semi() -> SemiImplicitPosterior:
    return SemiImplicitPosterior(encoder(), width=4, **PLACE)


def critic(features: int = WIDTH, latent: int = D) -> ResidualCritic:
    return ResidualCritic(features, latent, width=4, key=KEY)


class Bad(NamedTuple):
    """Arguments that are refused, and the message."""

    name: str
    make: Callable
    message: str


METHODS = [
    Bad(
        "latent dimensions",
        lambda m: Method(m, GaussianPosterior(encoder(), **PLACE | {"latent_dim": 3})),
        "latent dimensions of the posterior: expected 2, got 3",
    ),
    Bad(
        "importance samples",
        lambda m: Method(m, gaussian(), importance_samples=0),
        "importance_samples: expected at least 1, got 0",
    ),
    Bad(
        "draws that go back",
        lambda m: Method(m, gaussian(), importance_samples=5, gradient_draws=5),
        "gradient_draws: expected at least 1 and fewer than importance_samples, got 5 of 5",
    ),
    Bad(
        "draws that go back without weights",
        lambda m: Method(m, gaussian(), gradient_draws=1),
        "gradient_draws: expected at least 1 and fewer than importance_samples, got 1 of 1",
    ),
    Bad(
        "Hamiltonian transitions",
        lambda m: Method(m, gaussian(), hmc_transitions=-1),
        "hmc_transitions: expected zero or more, got -1",
    ),
    Bad(
        "contrast draws",
        lambda m: Method(m, gaussian(), contrast_draws=-1),
        "contrast_draws: expected at least 1, got -1",
    ),
    Bad(
        "draws of a fit",
        lambda m: Method(m, gaussian(), fit_draws=0),
        "fit_draws: expected at least 1, got 0",
    ),
    Bad(
        "draws of a fit without one",
        lambda m: Method(m, implicit(), PriorContrast(), critic(), Logistic(), fit_draws=2),
        "fit_draws = 2: expected a contrast that is fitted to draws (GaussianContrast, "
        "MixtureContrast or FlowContrast), got PriorContrast",
    ),
    Bad(
        "posterior draws",
        lambda m: Method(m, gaussian(), posterior_draws=0),
        "posterior_draws: expected at least 1, got 0",
    ),
    Bad(
        "objective alone",
        lambda m: Method(m, gaussian(), objective=Logistic()),
        "an objective without a critic: give both or neither",
    ),
    Bad(
        "contrast alone",
        lambda m: Method(m, implicit(), PriorContrast()),
        "PriorContrast without a critic is not a bound on the ELBO: give a critic and an "
        "objective, or use SelfContrast with a semi-implicit posterior",
    ),
    Bad(
        "implicit alone",
        lambda m: Method(m, implicit()),
        "ImplicitPosterior has no density: expected a contrast with a critic, or SelfContrast "
        "for a semi-implicit posterior, got neither",
    ),
    Bad(
        "semi-implicit alone",
        lambda m: Method(m, semi()),
        "SemiImplicitPosterior has no density: expected a contrast with a critic, or "
        "SelfContrast for a semi-implicit posterior, got neither",
    ),
    Bad(
        "self contrast of a Gaussian",
        lambda m: Method(m, gaussian(), SelfContrast()),
        "SelfContrast: expected a SemiImplicitPosterior, got GaussianPosterior",
    ),
    Bad(
        "importance weights without a density",
        lambda m: Method(m, semi(), SelfContrast(), importance_samples=5),
        "importance_samples = 5 needs a posterior with a density and no contrast, or a critic, "
        "got SemiImplicitPosterior and neither; use GaussianPosterior or FlowPosterior, or "
        "AnchoredSelfContrast and a critic",
    ),
    Bad(
        "critic without a contrast",
        lambda m: Method(m, implicit(), None, critic(), Logistic()),
        "a critic needs a contrast that is a density of z: expected AnchoredMomentContrast, "
        "AnchoredSelfContrast, GaussianContrast, MixtureContrast, FlowContrast, MomentContrast or "
        "PriorContrast, got none",
    ),
    Bad(
        "critic with the self contrast",
        lambda m: Method(m, semi(), SelfContrast(), critic(), Logistic()),
        "a critic needs a contrast that is a density of z: expected AnchoredMomentContrast, "
        "AnchoredSelfContrast, GaussianContrast, MixtureContrast, FlowContrast, MomentContrast or "
        "PriorContrast, got SelfContrast",
    ),
    Bad(
        "critic without an objective",
        lambda m: Method(m, implicit(), PriorContrast(), critic()),
        "a critic needs an objective: KLDual, Logistic, WeightedLogistic, DonskerVaradhan or "
        "LeastSquares",
    ),
    Bad(
        "anchors without a semi-implicit posterior",
        lambda m: Method(m, implicit(), AnchoredSelfContrast(4), critic(), Logistic()),
        "AnchoredSelfContrast: expected a SemiImplicitPosterior, got ImplicitPosterior",
    ),
    Bad(
        "anchors of other noise",
        lambda m: Method(m, semi(), AnchoredSelfContrast(7), critic(), Logistic()),
        "noise variables of the self contrast: expected 4, got 7",
    ),
]

PARTS = [
    Bad(
        "noise of an implicit posterior",
        lambda: ImplicitPosterior(encoder(), noise_dim=1, **PLACE),
        "noise variables of an implicit posterior: expected at least latent_dim = 2, got 1; "
        "with fewer its draws fill no volume",
    ),
    Bad(
        "flow posterior in one dimension",
        lambda: FlowPosterior(encoder(), **PLACE | {"latent_dim": 1}),
        "a coupling flow needs at least 2 latent dimensions, got 1; use method 'gaussian_vae' "
        "or 'sivi' for one",
    ),
    Bad(
        "flow contrast in one dimension",
        lambda: FlowContrast(4, 1, key=KEY),
        "a coupling flow needs at least 2 latent dimensions, got 1; use method 'gaussian_vae' "
        "or 'sivi' for one",
    ),
    Bad(
        "encoder of a matrix",
        lambda: GaussianPosterior(lambda x: jnp.outer(x, x), **PLACE),
        "number of axes of the encoder's output: expected 1, got 2",
    ),
    Bad(
        "components of the self contrast",
        lambda: SelfContrast(0),
        "components of the self contrast: expected at least 1, got 0",
    ),
    Bad(
        "even points of the self contrast",
        lambda: SelfContrast(48, even=True),
        "even points of the self contrast: expected a power of two, such as 64, got 48",
    ),
    Bad(
        "covariance of the moment contrast",
        lambda: MomentContrast("fulll"),
        "covariance of the moment contrast: expected 'diagonal' or 'full', got 'fulll'",
    ),
    Bad(
        "draws of the moment contrast",
        lambda: MomentContrast("diagonal", 1),
        "draws of the moment contrast: expected at least 2, got 1",
    ),
    Bad(
        "covariance of the learned contrast",
        lambda: GaussianContrast(4, 2, covariance="low rank", key=KEY),
        "covariance of the learned contrast: expected 'diagonal' or 'full', got 'low rank'",
    ),
    Bad(
        "anchors with another posterior",
        lambda: AnchoredSelfContrast(4).condition(
            gaussian(), dist.Normal(jnp.zeros(D), 1.0), jnp.zeros(WIDTH), KEY
        ),
        "the self contrast needs a semi-implicit posterior, got GaussianPosterior; use "
        "SemiImplicitPosterior or GaussianContrast",
    ),
    Bad(
        "scale of the normal likelihood",
        lambda: FixedNormal(0.0),
        "scale of the normal likelihood: expected a positive number, got 0.0",
    ),
    Bad(
        "scale that is no number",
        lambda: FixedNormal(float("nan")),
        "scale of the normal likelihood: expected a positive number, got nan",
    ),
    Bad(
        "classes",
        lambda: Categorical(1),
        "number of classes: expected at least 2, got 1",
    ),
    Bad(
        "shape of the pixel scales",
        lambda: PixelNormal((3,)).distribution(jnp.zeros((1, 4))),
        "data shape of the likelihood: expected (3,), got (4,)",
    ),
    Bad(
        "prior of scalars",
        lambda: LatentVariableModel(dist.Normal(0.0, 1.0), encoder(), Bernoulli(), SHAPE),
        "number of axes of the prior's event: expected 1, got 0",
    ),
    Bad(
        "decoder of another size",
        lambda: LatentVariableModel(
            ARCHITECTURE.build_model(key=KEY).prior,
            lambda z: jnp.zeros((1, 3)),
            DecodedNormal(),
            SHAPE,
        ),
        "shape of the decoder's output: expected (2, 3), got (1, 3)",
    ),
    Bad(
        "convolutions of a vector",
        lambda: avb.gaussian_vae(Architecture((3,), network="conv"), key=KEY),
        "a convolutional network needs images: expected data of shape (height, width) or "
        "(height, width, channels), got (3,); use network 'mlp' for other data",
    ),
]

SETTINGS = [
    Bad("latent_dim", lambda: Architecture(SHAPE, 0), "latent_dim: expected at least 1, got 0"),
    Bad(
        "noise reach",
        lambda: Architecture(SHAPE, noise_reach=0.0),
        "noise_reach: expected a positive number, got 0.0",
    ),
    Bad(
        "endless noise reach",
        lambda: Architecture(SHAPE, noise_reach=math.inf),
        "noise_reach: expected a positive number, got inf",
    ),
    Bad(
        "noise_depth",
        lambda: Architecture(SHAPE, 2, noise_depth=0),
        "noise_depth: expected at least 1, got 0",
    ),
    Bad(
        "no convolution",
        lambda: Architecture(SHAPE, channels=()),
        "channels: expected one convolution or more of at least 1, got ()",
    ),
    Bad(
        "channels",
        lambda: Architecture(SHAPE, channels=(16, 0)),
        "channels: expected one convolution or more of at least 1, got (16, 0)",
    ),
    Bad("width", lambda: Architecture(SHAPE, width=-3), "width: expected at least 1, got -3"),
    Bad("depth", lambda: Architecture(SHAPE, depth=0), "depth: expected at least 1, got 0"),
    Bad("no shape", lambda: Architecture(()), "data_shape: expected positive sizes, got ()"),
    Bad(
        "empty shape",
        lambda: Architecture((3, 0)),
        "data_shape: expected positive sizes, got (3, 0)",
    ),
    Bad(
        "network",
        lambda: Architecture(SHAPE, network="cnn"),
        "network: expected one of mlp, conv, got 'cnn'",
    ),
    Bad(
        "likelihood",
        lambda: Architecture(SHAPE, likelihood="gauss"),
        "likelihood: expected one of bernoulli, normal, pixel-normal, categorical, poisson, "
        "negative-binomial, got 'gauss'",
    ),
    Bad(
        "input scale",
        lambda: Architecture(SHAPE, input_scale=0.0),
        "input_scale: expected a positive number, got 0.0",
    ),
    *(
        Bad(
            name,
            lambda name=name: FitConfig(**{name: 0}),
            f"{name}: expected at least 1, got 0",
        )
        for name in ("epochs", "batch_size", "critic_steps", "max_skipped")
    ),
    *(
        Bad(
            f"{name} = {value}",
            lambda name=name, value=value: FitConfig(**{name: value}),
            f"{name}: expected a positive number, got {value}",
        )
        for name in ("learning_rate", "critic_learning_rate", "clip_norm")
        for value in (0.0, float("nan"), float("inf"))
    ),
    *(
        Bad(
            f"{name} = {value}",
            lambda name=name, value=value: FitConfig(**{name: value}),
            f"{name}: expected zero or more, got {value}",
        )
        for name in ("critic_warmup", "kl_warmup")
        for value in (-1, float("nan"))
    ),
    *(
        Bad(
            f"{name} = {value}",
            lambda name=name, value=value: FitConfig(**{name: value}),
            f"{name}: expected a number in [0, 1), got {value}",
        )
        for name in ("ema_decay", "momentum")
        for value in (-0.1, 1.0, float("nan"))
    ),
    *(
        Bad(
            f"{name} = {value}",
            lambda name=name, value=value: FitConfig(**{name: value}),
            f"{name}: expected a number in (0, 1], got {value}",
        )
        for name in ("final_rate", "critic_final_rate")
        for value in (0.0, 1.1, float("nan"))
    ),
]

ROWS = np.zeros((4, 3))
EVALUATIONS = [
    Bad(
        "elbo of an implicit posterior",
        lambda m: avb.elbo(m, implicit(), ROWS, key=KEY),
        "ImplicitPosterior has no density, so its ELBO has no exact value: use elbo_bracket for "
        "a semi-implicit posterior, fresh_critic_elbo or smoothed_bracket for an implicit one",
    ),
    Bad(
        "elbo with one draw",
        lambda m: avb.elbo(m, gaussian(), ROWS, key=KEY, draws=1),
        "draws a datum: expected at least 2 for a standard error, got 1",
    ),
    Bad(
        "bracket of a Gaussian",
        lambda m: avb.elbo_bracket(m, gaussian(), ROWS, key=KEY),
        "the bracket needs a semi-implicit posterior, got GaussianPosterior: use elbo where "
        "there is a density, fresh_critic_elbo for an implicit one",
    ),
    Bad(
        "bracket with one draw",
        lambda m: avb.elbo_bracket(m, semi(), ROWS, key=KEY, draws=1),
        "draws a datum: expected at least 2 for a standard error, got 1",
    ),
    Bad(
        "bracket without components",
        lambda m: avb.elbo_bracket(m, semi(), ROWS, key=KEY, components=0),
        "components of the bracket: expected at least 1, got 0",
    ),
    Bad(
        "critic's estimate without a critic",
        lambda m: avb.critic_elbo(Method(m, gaussian()), ROWS, key=KEY),
        "the critic's estimate needs a method with a critic, got none",
    ),
    Bad(
        "one importance sample",
        lambda m: avb.importance_bound(m, gaussian(), ROWS, key=KEY, samples=1),
        "importance samples: expected at least 2, got 1",
    ),
]


@pytest.mark.parametrize("bad", METHODS, ids=lambda bad: bad.name)
def test_parts_that_do_not_fit(bad, model):
    with pytest.raises(ConfigError) as caught:
        bad.make(model)
    assert str(caught.value) == bad.message


@pytest.mark.parametrize(
    ("features", "latent"), [(WIDTH + 1, D), (WIDTH, D + 1)], ids=["features", "latent"]
)
def test_critic_of_another_size(features, latent, model):
    expected = (
        "the critic or the contrast does not fit the posterior: expected 4 features and 2 latent "
        "dimensions ("
    )
    with pytest.raises(ConfigError) as caught:
        Method(model, implicit(), PriorContrast(), critic(features, latent), Logistic())
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("bad", PARTS + SETTINGS, ids=lambda bad: bad.name)
def test_bad_settings(bad):
    with pytest.raises(ConfigError) as caught:
        bad.make()
    assert str(caught.value) == bad.message


@pytest.mark.parametrize("bad", EVALUATIONS, ids=lambda bad: bad.name)
def test_bad_evaluations(bad, model):
    with pytest.raises(ConfigError) as caught:
        bad.make(model)
    assert str(caught.value) == bad.message


BAD_DATA = [
    Bad(
        "shape",
        lambda: np.zeros((4, 2)),
        "data to evaluate: expected shape (n, (3,)), got (4, 2)",
    ),
    Bad(
        "none", lambda: np.zeros((0, 3)), "data to evaluate: expected at least one datum, got none"
    ),
    Bad(
        "not finite",
        lambda: np.full((4, 3), np.nan),
        "data to evaluate: expected finite numbers, got NaN or infinity",
    ),
]


@pytest.mark.parametrize("bad", BAD_DATA, ids=lambda bad: bad.name)
def test_bad_data_for_evaluation(bad, model):
    with pytest.raises(DataError) as caught:
        avb.elbo(model, gaussian(), bad.make(), key=KEY)
    assert str(caught.value) == bad.message


def test_fewer_data_than_a_batch():
    method = avb.gaussian_vae(ARCHITECTURE, key=KEY)
    with pytest.raises(DataError) as caught:
        avb.fit(method, np.zeros((5, 3), np.float32), config=FitConfig(batch_size=8), key=KEY)
    assert str(caught.value) == (
        "training data: expected at least one batch of 8, got 5 data; use a smaller batch size"
    )


def test_binarising_real_data():
    method = avb.gaussian_vae(ARCHITECTURE, key=KEY)
    with pytest.raises(DataError) as caught:
        avb.fit(method, np.zeros((200, 3), np.float32), encoding="binarise", key=KEY)
    assert str(caught.value) == "dynamic binarisation: expected uint8 pixels, got float32"


def test_state_of_other_data():
    method = avb.gaussian_vae(ARCHITECTURE, key=KEY)
    config = FitConfig(epochs=1, batch_size=4)
    state = avb.training.init(
        method, avb.training.DeviceData(np.zeros((8, 3), np.float32), "real", 4), config, key=KEY
    )
    rows = np.zeros((12, 3), np.float32)
    with pytest.raises(ConfigError) as caught:
        avb.fit(method, rows, config=config, init_state=state, key=KEY)
    assert str(caught.value) == "data in the order of init_state: expected 12, got 8"
