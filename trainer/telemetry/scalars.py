"""Events as named numbers over steps, for every tool that draws curves: `train/loss`, `val/top1`, ..."""

from trainer.telemetry.events import Event, PassDone, StepDone


def scalars(event: Event) -> dict[str, float]:
    """The numbers of a log point or of a pass; empty for other events and for final passes (they have no step)."""
    if isinstance(event, StepDone):
        share = event.data_wait_seconds / event.seconds if event.seconds > 0 else None
        values = {
            **event.metrics,
            "loss": event.loss,
            "lr": event.learning_rate,
            "grad_norm": event.grad_norm,
            "clipped_share": event.clipped_share,
            "loss_scale": event.loss_scale,
            "samples_per_second": event.samples_per_second,
            "data_wait_share": share,
        }
        return {f"train/{name}": value for name, value in values.items() if value is not None}
    if isinstance(event, PassDone) and not event.is_final:
        return {f"{event.name}/{name}": value for name, value in event.metrics.items() if value is not None}
    return {}
