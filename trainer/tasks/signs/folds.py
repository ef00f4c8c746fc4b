"""Leave one signer out, for the command `train --folds signer`."""

from trainer.config.signs import SignsSettings
from trainer.tasks.signs.recordings import recordings_of
from trainer.tasks.signs.split import folds as split_folds


def folds(settings: SignsSettings) -> list[tuple[str, SignsSettings]]:
    """For each signer of the recordings its name and the settings of the run that holds it out.

    Raises DataError if there is one signer only.
    """
    parts = split_folds(recordings_of(settings), settings.data.split)
    data = [(name, settings.data.model_copy(update={"split": split})) for name, split in parts]
    return [(name, settings.model_copy(update={"data": one}, deep=True)) for name, one in data]
