from . import (
    contrasts as contrasts,
    critics as critics,
    data as data,
    densities as densities,
    diagnostics as diagnostics,
    evaluation as evaluation,
    inference as inference,
    models as models,
    nets as nets,
    objectives as objectives,
    posteriors as posteriors,
    report as report,
    runs as runs,
    scores as scores,
    training as training,
)
from ._architecture import Architecture as Architecture
from ._errors import (
    AvbError as AvbError,
    ConfigError as ConfigError,
    DataError as DataError,
    RunError as RunError,
    TrainingError as TrainingError,
)
from ._method import Method as Method
from ._presets import (
    PRESETS as PRESETS,
    avb as avb,
    avb_adaptive as avb_adaptive,
    avb_self as avb_self,
    flow_vae as flow_vae,
    gaussian_vae as gaussian_vae,
    iwae as iwae,
    sivi as sivi,
)
from .data import (
    Dataset as Dataset,
    binarise_once as binarise_once,
    load_dataset as load_dataset,
)
from .evaluation import (
    ActiveUnits as ActiveUnits,
    Diagnosis as Diagnosis,
    Estimate as Estimate,
    Evaluation as Evaluation,
    FreshCritics as FreshCritics,
    InferenceGaps as InferenceGaps,
    Verdict as Verdict,
    active_units as active_units,
    aggregate_kl as aggregate_kl,
    annealed_bound as annealed_bound,
    bidirectional_bounds as bidirectional_bounds,
    critic_elbo as critic_elbo,
    diagnose as diagnose,
    elbo as elbo,
    elbo_bracket as elbo_bracket,
    evaluate as evaluate,
    fresh_critic_elbo as fresh_critic_elbo,
    importance_bound as importance_bound,
    inference_gaps as inference_gaps,
    judge_critic as judge_critic,
    mutual_information as mutual_information,
    smoothed_bracket as smoothed_bracket,
)
from .inference import (
    AmortisedInference as AmortisedInference,
    Inference as Inference,
    Posterior as Posterior,
)
from .runs import (
    Run as Run,
    RunConfig as RunConfig,
    load_run as load_run,
    resume_run as resume_run,
    train_run as train_run,
)
from .training import (
    FitConfig as FitConfig,
    FitResult as FitResult,
    FittedPrior as FittedPrior,
    Outcome as Outcome,
    Progress as Progress,
    State as State,
    fit as fit,
    fit_prior as fit_prior,
)
