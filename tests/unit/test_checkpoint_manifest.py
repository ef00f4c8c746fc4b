import json

import pytest

from trainer.checkpoint.manifest import FileRecord, FolderName, Manifest, ManifestError

MANIFEST = Manifest(
    step=12, epoch=1, attempt="0001-abcdef", sequence=3, world_size=2, cursor={"step": 12},
    created="2026-01-01T00:00:00Z",
    files={"model.safetensors": FileRecord(10, "00" * 32), "state.json": FileRecord(2, "11" * 32)}, is_best=True,
)  # fmt: skip


def test_a_manifest_reads_back_equal():
    assert Manifest.from_bytes(MANIFEST.to_bytes()) == MANIFEST
    assert MANIFEST.size_bytes == 12


def test_every_flipped_bit_is_seen():
    data = MANIFEST.to_bytes()
    for position in range(len(data)):
        for bit in (1, 32, 128):
            changed = bytearray(data)
            changed[position] ^= bit
            with pytest.raises(ManifestError):
                Manifest.from_bytes(bytes(changed))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"format": 1}', MANIFEST.to_bytes() + b" "])
def test_garbage_is_refused(data):
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_a_newer_format_is_refused_by_its_number():
    with pytest.raises(ManifestError, match="format 2, this version reads 1"):
        Manifest.from_bytes(json.dumps({**json.loads(MANIFEST.to_bytes()), "format": 2}).encode())


def test_folder_names_read_back_and_sort_like_their_text_behind_a_slash():
    names = [
        FolderName(5, 1, "ffffff"),
        FolderName(5, 1, "ffffff", 1),
        FolderName(5, 2, "000000"),
        FolderName(40, 1, "a1b2c3"),
    ]
    assert [FolderName.parse(str(name)) for name in names] == names
    assert sorted(f"{name}/" for name in names) == [f"{name}/" for name in sorted(names)]
    for text in ("000000000005-0001-ffffff.1", "5-0001-ffffff", "000000000005-0001-xyzxyz", "latest"):
        assert FolderName.parse(text) is None
