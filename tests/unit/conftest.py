"""What unit tests share: they never wait for the disk."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_syncs() -> Iterator[None]:
    """Waiting for the disk proves nothing here and takes a fifth of the time.

    That a put syncs is tested with the store, and all else is synced in the integration tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
