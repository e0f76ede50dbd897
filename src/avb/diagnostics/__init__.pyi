from ._calibration import (
    Calibration as Calibration,
    method_calibration as method_calibration,
    simulation_based_calibration as simulation_based_calibration,
)
from ._classifier import ClassifierTest as ClassifierTest, c2st as c2st
from ._compare import Comparison as Comparison, compare_draws as compare_draws
from ._kernel import energy_distance as energy_distance, mmd_test as mmd_test
from ._modes import ModeCoverage as ModeCoverage, mode_coverage as mode_coverage
from ._permutation import PermutationTest as PermutationTest
from ._uniformity import Uniformity as Uniformity, uniformity_test as uniformity_test
from ._wasserstein import sliced_wasserstein as sliced_wasserstein
