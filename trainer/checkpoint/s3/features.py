"""What servers may lack and a store can do without: found out at the first refusal, remembered, said once."""

from collections import deque
from collections.abc import Callable
from itertools import chain, combinations
from typing import TypeVar

from botocore.exceptions import ClientError

from trainer.checkpoint.s3.errors import code_of, is_unsupported, status_of

Result = TypeVar("Result")

CONDITIONAL = "conditional"
ENCRYPTION = "encryption"
CHECKSUMS = "checksums"
MANY_DELETES = "many deletes"
UPLOAD_LIST = "upload list"

_NOTICES = {
    CONDITIONAL: "has no conditional writes; instead it is looked whether the object is there before it is written",
    ENCRYPTION: "does not encrypt on request; objects are stored as the bucket's default says",
    CHECKSUMS: "does not know the SDK's checksums; it is written to without them, our own digests stay",
    MANY_DELETES: "does not delete many objects at once; they are deleted one by one",
    UPLOAD_LIST: "does not list unfinished uploads to these keys; let a rule of the bucket remove old ones",
}


class Features:
    """The memory of one store; `notices` gets a line for each thing that is missing."""

    def __init__(self, url: str, notices: deque[str]) -> None:
        self._url = url
        self._notices = notices
        self._seen: set[str] = set()
        self._lacking: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether it is worth asking for."""
        return name not in self._lacking

    def are_known(self, wanted: frozenset[str]) -> bool:
        """Whether each of them has worked, or has turned out to be missing."""
        return wanted <= self._seen | self._lacking

    def lack(self, name: str, error: ClientError) -> None:
        """Remember that the server has it not, by the answer that says so."""
        if name not in self._lacking:
            self._lacking.add(name)
            self._notices.append(f"{self._url}: the server ({code_of(error) or status_of(error)}) {_NOTICES[name]}")

    def send(
        self, wanted: frozenset[str], required: frozenset[str], request: Callable[[frozenset[str]], Result]
    ) -> Result:
        """Send a request with what the server has of `wanted`.

        At the first refusal it is sent without one, then without more of the things that have not worked before and
        are not `required`. What helped is missing from then on; if nothing helps, the first error stands.
        """
        used = wanted - self._lacking
        try:
            result = request(used)
        except ClientError as error:
            doubtful = used - self._seen - required
            if not is_unsupported(error) or not doubtful:
                raise
            return self._send_without(used, doubtful, request, error)
        self._seen |= used
        return result

    def _send_without(
        self,
        used: frozenset[str],
        doubtful: frozenset[str],
        request: Callable[[frozenset[str]], Result],
        error: ClientError,
    ) -> Result:
        names = sorted(doubtful)
        subsets = chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))
        for left_out in map(frozenset, subsets):
            try:
                result = request(used - left_out)
            except ClientError as again:
                if is_unsupported(again):
                    continue
                if status_of(again) in (409, 412):  # it was understood now, and that is the answer
                    self._settle(used, left_out, error)
                raise
            self._settle(used, left_out, error)
            return result
        raise error

    def _settle(self, used: frozenset[str], left_out: frozenset[str], error: ClientError) -> None:
        for name in sorted(left_out):
            self.lack(name, error)
        self._seen |= used - left_out
