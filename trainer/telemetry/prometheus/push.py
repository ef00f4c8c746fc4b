"""The final values to a Pushgateway, for what is over between two scrapes.

A group is {job, namespace, run}; each push replaces the whole group, and the next start of the run deletes it, because
a Pushgateway forgets nothing by itself and would show an old end for ever. Neither can hold up a training for longer
than three seconds, whatever name servers and proxies do.
"""

import os
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, delete_from_gateway, push_to_gateway

from trainer.config.prometheus import PrometheusSettings

ANSWER_SECONDS = 3.0
NAMESPACE = "POD_NAMESPACE"
"""The variable that the chart sets from the pod's own record."""


def push(registry: CollectorRegistry, settings: PrometheusSettings, run: str, warn: Callable[[str], None]) -> bool:
    """Replace the group of the run by the registry as it is; says whether it is there. A failure is one warning."""

    def put(url: str, seconds: float) -> None:
        push_to_gateway(url, settings.push_job, registry, _group(run), seconds)

    return _ask(put, settings, "does not have the final values", warn)


def forget(settings: PrometheusSettings, run: str, warn: Callable[[str], None]) -> bool:
    """Delete the group of the run, which an earlier attempt left there; says whether it is gone."""

    def delete(url: str, seconds: float) -> None:
        delete_from_gateway(url, settings.push_job, _group(run), seconds)

    return _ask(delete, settings, "still shows the end of the attempt before", warn)


def _group(run: str) -> dict[str, str]:
    return {"namespace": os.environ.get(NAMESPACE, ""), "run": run}


def _ask(
    send: Callable[[str, float], None], settings: PrometheusSettings, loss: str, warn: Callable[[str], None]
) -> bool:
    """Send on a thread of its own, since a name server's silence knows no time limit; True if there is no gateway."""
    if settings.pushgateway is None:
        return True
    url, outcome = settings.pushgateway, [f"no answer in {ANSWER_SECONDS:g} s"]

    def run() -> None:
        try:
            send(url, ANSWER_SECONDS)
            outcome[0] = ""
        except Exception as error:
            outcome[0] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=run, name="pushgateway", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if outcome[0]:
        warn(f"the Pushgateway at {url} {loss}: {outcome[0]}")
    return not outcome[0]
