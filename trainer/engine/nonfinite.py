"""A NaN or infinite gradient: what the run does then. Gradients are reduced, so all ranks see the same and agree."""

from trainer.config.settings import NonFiniteSettings


class NonFiniteGuard:
    """Counts bad steps and says what to do: `stop`, `skip` or `rollback`, until the budget is used."""

    def __init__(self, settings: NonFiniteSettings) -> None:
        self.policy = settings.policy
        self.budget = settings.budget
        self.used = 0

    def decide(self) -> str:
        """Count one more bad step; `stop` when the policy says so or the budget is used up."""
        self.used += 1
        return "stop" if self.policy == "stop" or self.used > self.budget else self.policy
