"""Every value of the chart, alone: it changes what is rendered, and without it (null) nothing trips."""

import re

import pytest

from charts.tools import helm
from tests.chart_values import EFFECTS, REFUSED, at, merged, refusal, render

pytestmark = pytest.mark.skipif(helm.missing() is not None, reason=str(helm.missing()))


@pytest.mark.parametrize("path", EFFECTS)
def test_every_value_changes_what_is_rendered(path):
    value, context, *effect = EFFECTS[path]
    changed = merged(context, at(path, value))
    if effect == [REFUSED]:
        assert refusal(changed)
    else:
        assert render(changed) != render(context)


@pytest.mark.parametrize("path", sorted({".".join(path.split(".")[:n]) for path in EFFECTS for n in (1, 2)}))
def test_null_is_either_harmless_or_refused_in_words(path):
    """Helm takes null as "without this value"; a template must not trip over what is gone then."""
    context = EFFECTS.get(path, (None, {}))[1]
    try:
        render(merged(context, at(path, None)))
    except helm.ChartError as error:
        if "nil pointer" in str(error) or not re.search(r"missing property|got null|^execution error at", str(error)):
            raise
