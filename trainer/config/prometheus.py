"""Settings of the metrics for Prometheus: where they are served, to whom, and for how long after the end."""

import os
from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator, model_validator

from trainer.config.base import Section, setting

IN_POD = "KUBERNETES_SERVICE_HOST"
"""The variable that every pod has."""


class PrometheusSettings(Section):
    """Metrics on `/metrics`, one port for the first process of each pod (or machine)."""

    enabled: Literal["auto", "on", "off"] = setting("auto", matters=False)
    """`auto`: on inside a pod. A port that cannot be had is a warning, never the end of a training."""
    port: int = setting(9090, ge=0, le=65535, matters=False)
    """0 takes any free port, which is said at the start."""
    host: str = setting("", matters=False)
    """Address to listen on; empty means all."""
    linger_seconds: float | None = setting(None, ge=0, matters=False)
    """Longest wait at the end for a scrape of the final values, cut short when told to stop; default 60 in a pod and 0
    elsewhere."""
    linger_scrapes: int = setting(1, ge=1, matters=False)
    """Scrapes of the final values that end the wait."""
    tls_cert: str | None = setting(None, matters=False)
    """File with the certificate chain (PEM); with `tls_key` the metrics are served over TLS."""
    tls_key: str | None = setting(None, matters=False)
    """File with the private key of `tls_cert` (PEM)."""
    auth_file: str | None = setting(None, matters=False)
    """File of users who may scrape (HTTP basic authentication), one `user:hash` a line, as
    `trainer.telemetry.prometheus.auth` writes them."""
    pushgateway: str | None = setting(None, matters=False)
    """URL of a Pushgateway that gets the final values too; the group of the run is deleted at its next start."""
    push_job: str = setting("trainer", matters=False, pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    """Label `job` of what is pushed."""

    @field_validator("pushgateway")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        kind, _, rest = value.partition("://")
        if kind not in ("http", "https") or not rest:
            raise ValueError("telemetry.prometheus.pushgateway must be a URL such as http://pushgateway:9091")
        if "@" in rest:
            raise ValueError("telemetry.prometheus.pushgateway must not hold credentials: settings are in the ledger")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_pair(self) -> "PrometheusSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("telemetry.prometheus.tls_cert and tls_key belong together; set both or neither")
        return self


def is_on(settings: PrometheusSettings, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to export."""
    return settings.enabled == "on" or (settings.enabled == "auto" and IN_POD in environ)
