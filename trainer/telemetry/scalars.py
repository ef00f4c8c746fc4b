"""Events as named numbers over steps, for every tool that draws curves: `train/loss`, `val/top1`, ...

Loss terms are `train/<term>/loss`, their balance `balance/<term>/weight` and `.../norm`, curves `schedule/<name>`.
"""

from trainer.telemetry.events import Event, PassDone, StepDone


def scalars(event: Event) -> dict[str, float]:
    """The numbers of a log point or of a pass; empty for other events and for final passes (they have no step)."""
    if isinstance(event, StepDone):
        share = event.data_wait_seconds / event.seconds if event.seconds > 0 else None
        values = {
            **event.metrics,
            **{f"{term}/loss": value for term, value in event.terms.items()},
            "loss": event.loss,
            "lr": event.learning_rate,
            "grad_norm": event.grad_norm,
            "clipped_share": event.clipped_share,
            "loss_scale": event.loss_scale,
            "samples_per_second": event.samples_per_second,
            "data_wait_share": share,
        }
        found = {f"train/{name}": value for name, value in values.items() if value is not None}
        for kind, numbers in (("weight", event.weights), ("norm", event.norms)):
            found |= {f"balance/{term}/{kind}": value for term, value in numbers.items()}
        return found | {f"schedule/{name}": value for name, value in event.curves.items()}
    if isinstance(event, PassDone) and not event.is_final:
        return {f"{event.name}/{name}": value for name, value in event.metrics.items() if value is not None}
    return {}
