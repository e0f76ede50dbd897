from ._config import RunConfig as RunConfig
from ._diagnose import DiagnosisSettings as DiagnosisSettings, diagnose_run as diagnose_run
from ._encode import Encoded as Encoded, encode as encode
from ._evaluate import EvaluationSettings as EvaluationSettings, evaluate_run as evaluate_run
from ._load import Run as Run, load_run as load_run
from ._methods import METHODS as METHODS, MethodInfo as MethodInfo
from ._train import resume_run as resume_run, train_run as train_run
