"""Each posteriordb model against its formula in NumPy, Jacobians by differentiation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats as st
from experiments import posteriordb

FOLDER = posteriordb.data_folder()
pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="posteriordb's data are not beside the repository (AVB_POSTERIORDB)"
)


def half_t(value, df, scale):
    return np.log(2.0) + st.t.logpdf(value, df, 0.0, scale)


def linear(mean, v, observed):
    return st.norm.logpdf(observed, mean, v["sigma"]).sum()


def ark(v, d):
    y, k = d["y"], d["K"]
    total = st.norm.logpdf(v["alpha"], 0, 10) + st.norm.logpdf(v["beta"], 0, 10).sum()
    total += st.halfcauchy.logpdf(v["sigma"], scale=2.5)
    for t in range(k, d["T"]):
        mean = v["alpha"] + sum(v["beta"][j] * y[t - 1 - j] for j in range(k))
        total += st.norm.logpdf(y[t], mean, v["sigma"])
    return total


def arma(v, d):
    y, mu, phi, theta = d["y"], v["mu"], v["phi"], v["theta"]
    total = st.norm.logpdf(mu, 0, 10) + st.norm.logpdf([phi, theta], 0, 2).sum()
    total += st.halfcauchy.logpdf(v["sigma"], scale=2.5)
    errors = [y[0] - (mu + phi * mu)]
    for t in range(1, d["T"]):
        errors.append(y[t] - (mu + phi * y[t - 1] + theta * errors[-1]))
    return total + st.norm.logpdf(errors, 0, v["sigma"]).sum()


def diamonds(v, d):
    centred = d["X"][:, 1:] - d["X"][:, 1:].mean(axis=0)
    total = st.norm.logpdf(v["b"]).sum() + st.t.logpdf(v["Intercept"], 3, 8, 10)
    return total + half_t(v["sigma"], 3, 10) + linear(v["Intercept"] + centred @ v["b"], v, d["Y"])


def earn_height(v, d):
    return linear(v["beta"][0] + v["beta"][1] * d["height"], v, d["earn"])


def logearn(v, d):
    b, h, m = v["beta"], d["height"], d["male"]
    return linear(b[0] + b[1] * h + b[2] * m + b[3] * h * m, v, np.log(d["earn"]))


def eight_schools(v, d):
    total = st.norm.logpdf(v["mu"], 0, 5) + st.halfcauchy.logpdf(v["tau"], scale=5)
    total += st.norm.logpdf(v["theta_trans"]).sum()
    theta = v["mu"] + v["tau"] * v["theta_trans"]
    return total + st.norm.logpdf(d["y"], theta, d["sigma"]).sum()


def gp(v, d):
    total = st.gamma.logpdf(v["rho"], 25, scale=1 / 4) + st.halfnorm.logpdf(v["alpha"], scale=2)
    total += st.halfnorm.logpdf(v["sigma"], scale=1)
    squares = np.subtract.outer(d["x"], d["x"]) ** 2
    k = v["alpha"] ** 2 * np.exp(-squares / (2 * v["rho"] ** 2)) + v["sigma"] * np.eye(d["N"])
    return total + st.multivariate_normal.logpdf(d["y"], np.zeros(d["N"]), k)


def hmm(v, d):
    # Dirichlet(1, 1) has density 1; the states are summed out without logarithms.
    total = st.norm.logpdf(v["mu"], [3, 10], 1).sum()
    transition = np.stack([v["theta1"], v["theta2"]])
    forward = st.norm.pdf(d["y"][0], v["mu"], 1)
    for y in d["y"][1:]:
        forward = (forward @ transition) * st.norm.pdf(y, v["mu"], 1)
        total += np.log(forward.sum())
        forward = forward / forward.sum()
    return total


def kidscore_interaction(v, d):
    b, hs, iq = v["beta"], d["mom_hs"], d["mom_iq"]
    prior = st.halfcauchy.logpdf(v["sigma"], scale=2.5)
    return prior + linear(b[0] + b[1] * hs + b[2] * iq + b[3] * hs * iq, v, d["kid_score"])


def kidscore_momhsiq(v, d):
    b = v["beta"]
    prior = st.halfcauchy.logpdf(v["sigma"], scale=2.5)
    return prior + linear(b[0] + b[1] * d["mom_hs"] + b[2] * d["mom_iq"], v, d["kid_score"])


def kilpisjarvi(v, d):
    total = st.norm.logpdf(v["alpha"], d["pmualpha"], d["psalpha"])
    total += st.norm.logpdf(v["beta"], d["pmubeta"], d["psbeta"])
    return total + linear(v["alpha"] + v["beta"] * d["x"], v, d["y"])


def gauss_mix(v, d):
    total = st.norm.logpdf(v["mu"], 0, 2).sum() + st.halfnorm.logpdf(v["sigma"], scale=2).sum()
    total += st.beta.logpdf(v["theta"], 5, 5)
    first, second = (st.norm.pdf(d["y"], v["mu"][i], v["sigma"][i]) for i in (0, 1))
    return total + np.log(v["theta"] * first + (1 - v["theta"]) * second).sum()


def mm_elim(v, d):
    total = sum(st.halfcauchy.logpdf(v[n]) for n in ("k_a", "K_m", "V_m", "sigma"))

    def slope(t, c):
        absorbed = np.exp(-v["k_a"] * t) * d["D"] * v["k_a"] / d["V"]
        return absorbed - v["V_m"] / d["V"] * c / (v["K_m"] + c)

    path = scipy.integrate.solve_ivp(
        slope, (d["t0"], d["times"][-1]), [0.0], t_eval=d["times"], rtol=1e-10, atol=1e-12
    )
    return total + st.lognorm.logpdf(d["C_hat"], v["sigma"], scale=path.y[0]).sum()


def blr(v, d):
    total = st.norm.logpdf(v["beta"], 0, 10).sum() + st.halfnorm.logpdf(v["sigma"], scale=10)
    return total + linear(d["X"] @ v["beta"], v, d["y"])


FORMULAS = {
    "arK-arK": ark,
    "arma-arma11": arma,
    "diamonds-diamonds": diamonds,
    "earnings-earn_height": earn_height,
    "earnings-logearn_interaction": logearn,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "gp_pois_regr-gp_regr": gp,
    "hmm_example-hmm_example": hmm,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "kidiq-kidscore_momhsiq": kidscore_momhsiq,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": gauss_mix,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": mm_elim,
    "sblrc-blr": blr,
}
SIMPLEXES = ("theta1", "theta2")
# All but the last are what Runge-Kutta steps of fixed length, or float64, leave.
TOLERANCES = {"one_comp_mm_elim_abs-one_comp_mm_elim_abs": 1e-4}


@functools.cache
def reference(name: str):
    return posteriordb.load(FOLDER, name)


def test_every_set_has_a_model_and_a_formula():
    names = {folder.name for folder in FOLDER.iterdir() if folder.is_dir()}
    assert names == set(posteriordb.MODELS) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_log_density_is_the_formula(name):
    from avb.inference import Inference

    data = posteriordb.arguments(reference(name).data)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):  # noqa: FBT003
        target = Inference(posteriordb.MODELS[name]).target(**data)

        def free(z):
            sites = target.constrain(z)
            if name.startswith("eight"):
                del sites["theta"]
            return jnp.concatenate(
                [jnp.ravel(v)[: -1 if k in SIMPLEXES else None] for k, v in sites.items()]
            )

        jacobian = jax.jit(jax.jacfwd(free))
        constrain = jax.jit(lambda z: target.constrain(z))
        log_density = jax.jit(lambda z: target.log_density(z))
        for z in np.random.default_rng(0).uniform(-0.5, 0.5, (3, target.dim)):
            sites = {k: np.asarray(v) for k, v in constrain(z).items()}
            volume = np.linalg.slogdet(np.asarray(jacobian(z)))[1]
            expected = FORMULAS[name](sites, data) + volume
            got = float(log_density(z))
            assert got == pytest.approx(expected, rel=TOLERANCES.get(name, 1e-9), abs=1e-8)


@pytest.mark.parametrize("name", FORMULAS)
def test_reference_draws_have_the_models_names(name):
    ref = reference(name)
    from avb.inference import Inference

    target = Inference(posteriordb.MODELS[name]).target(**posteriordb.arguments(ref.data))
    shapes = jax.eval_shape(target.constrain, jax.ShapeDtypeStruct((target.dim,), jnp.float32))
    sites = {k: np.zeros((5, *v.shape)) for k, v in shapes.items()}
    assert ref.columns(sites).shape == (5, ref.draws.shape[1])
