"""Whatever the shape of the job, the training is the one that torchrun makes at the desk, bit for bit."""

import pytest

from tests.e2e.releases import Values
from tests.e2e.runs import ELASTIC, ONE_POD, WORKERS, Trial, desk_weights

SHORT: Values = {"config": {"max_steps": 300, "passes": {"val": "every 100 steps"}}}
SHAPES = {"one": (ONE_POD, 1), "elastic": (ELASTIC, 2), "workers": (WORKERS, 3)}


@pytest.fixture(scope="module")
def namespaces(cluster, s3, namespace, plain_namespace):
    """By shape: the operator gives Workers of a Master an init container that `restricted` refuses as it comes."""
    for one in (namespace, plain_namespace):
        s3.make_secret(cluster, one)
    return {"one": namespace, "elastic": namespace, "workers": plain_namespace}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_are_those_of_torchrun_at_the_desk(shape, cluster, s3, make_release, namespaces):
    values, num_processes = SHAPES[shape]
    trial = Trial.start(cluster, s3, make_release(shape, namespaces[shape]), SHORT, values)
    trial.check_end(desk_weights(trial, num_processes))
