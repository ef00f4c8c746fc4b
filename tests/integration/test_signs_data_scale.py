"""The whole size of KArSL-502, generated and packed as a stream in a process of its own."""

import json
import subprocess
import sys

import pytest

from trainer.tasks.signs.packed import Recordings

PROGRAM = """
import json, sys
from trainer.tasks.signs.pack import pack
from trainer.tasks.signs.synthetic import Corpus, source

def anonymous_bytes():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))

peak = [0, 0]
def progress(done, total):
    if done % 100 == 0:
        peak[done > total // 2] = max(peak[done > total // 2], anonymous_bytes())

words, signers, repetitions = map(int, sys.argv[2:])
pack(source(Corpus(words, signers, repetitions)), sys.argv[1], progress=progress)
print(json.dumps(peak))
"""


def peaks(folder, *sizes):
    """Peak anonymous memory in bytes of the first and of the second half of the packing."""
    command = [sys.executable, "-c", PROGRAM, str(folder), *map(str, sizes)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path):
    first, second = peaks(tmp_path / "set", 10, 2, 30)
    assert second - first < 8e6
    assert (tmp_path / "set/frames.bin").stat().st_size > 30e6


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3600)
def test_75300_recordings_are_packed_in_under_2_gb(tmp_path):
    assert max(peaks(tmp_path / "set", 502, 3, 50)) < 2e9
    data = Recordings.open(tmp_path / "set", verify=True)
    assert (len(data), len(data.classes)) == (75_300, 502)
