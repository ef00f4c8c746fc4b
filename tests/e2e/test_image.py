"""The image that is there: any user id, read-only root, nothing in it that a pod does not need, and its size.

It is `signs-trainer:dev` or E2E_IMAGE, made by `make image TAG=dev`; without docker or it these tests are skipped.
"""

import json
import os
import secrets
import shutil
import subprocess
import threading
import time

import pytest

DOCKER = os.environ.get("DOCKER_BIN") or shutil.which("docker")
IMAGE = os.environ.get("E2E_IMAGE", "signs-trainer:dev")
MAX_BYTES = 500e6
"""Over the base image; 433 MB were measured."""
SMALL = ["--set", "data.synthetic_words=3", "--set", "data.synthetic_repetitions=4"]
QUICK = ["--config", "quick", "--num_epochs", "1", *SMALL]
PYTHON = "/opt/venv/bin/python"


def docker(*arguments, check=True, timeout=300):
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module", autouse=True)
def image():
    if DOCKER is None or docker("info", check=False).returncode:
        pytest.skip("no docker that answers")
    if docker("image", "inspect", IMAGE, check=False).returncode:
        pytest.skip(f"docker has no image {IMAGE}: make image TAG=dev, or set E2E_IMAGE")


def in_image(command):
    """A shell command as a pod would run it."""
    uid = str(secrets.randbelow(10**9) + 100_000)
    pod = ["--rm", "--read-only", "--user", f"{uid}:{uid}", "--tmpfs", "/scratch"]
    return docker("run", *pod, "--entrypoint", "sh", IMAGE, "-c", command).stdout


@pytest.mark.parametrize("group", ["0", "other"])
def test_any_user_trains_on_a_read_only_root(group):
    uid = str(secrets.randbelow(10**9) + 100_000)
    user = f"{uid}:{uid if group == 'other' else group}"
    limits = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]
    done = docker("run", "--rm", "--read-only", "--user", user, "--tmpfs", "/scratch", *limits, IMAGE, *QUICK)
    assert "onnx: largest difference" in done.stdout
    assert "report" in done.stdout


def test_a_stop_reaches_the_training_and_its_code_comes_back():
    name = f"image-{secrets.token_hex(3)}"
    started = ["run", "--detach", "--name", name, "--read-only", "--user", "12345:0", "--tmpfs", "/scratch", IMAGE]
    docker(*started, *QUICK, "--num_epochs", "4000")
    try:
        end = time.monotonic() + 180
        while "Epoch 1/" not in docker("logs", name).stdout:
            assert time.monotonic() < end
            threading.Event().wait(1)
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "143"
        processes = docker("logs", name).stdout
        assert "told to stop by SIGTERM" in processes
    finally:
        docker("rm", "--force", name)


def test_a_wrong_setting_comes_back_as_its_own_code():
    done = docker(
        "run", "--rm", "--read-only", "--user", "12345:0", "--tmpfs", "/scratch", IMAGE, "--lr", "-1", check=False
    )
    assert done.returncode == 2
    assert "optim.lr is -1" in done.stdout + done.stderr


def test_its_own_part_is_small():
    history = docker("history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", IMAGE).stdout.splitlines()
    first = next(index for index, line in enumerate(history) if "VERSION=" in line)
    own = sum(int(line.split()[0]) for line in history[:first])
    package = sum(int(line.split()[0]) for line in history[:first] if "COPY /opt/trainer" in line)
    print(f"{IMAGE}: {own / 1e6:.0f} MB over its base, {package / 1e6:.1f} MB of them the package")
    assert own < MAX_BYTES
    assert package < 10e6, "a new version of the code is a small pull"


def test_nothing_is_in_it_that_a_pod_does_not_need():
    own = "find /opt/venv /opt/trainer /scratch"
    assert in_image("for tool in gcc cc g++ make hadolint pytest; do command -v $tool; done; true") == ""
    assert in_image(f"{own} -name tests -type d; {own} -name pip -type d; {own} -name huggingface_hub") == ""
    assert in_image("ls -A /scratch /root 2>/dev/null | grep -v : | grep -iE 'cache|pip'; true") == ""
    assert (
        in_image(
            "find / -xdev \\( -name '.git' -o -name '.env' -o -name '*.pem.key' -o -name id_rsa \\) 2>/dev/null; true"
        )
        == ""
    )
    listed = in_image("ls /opt/trainer").split()
    assert set(listed) == {"bin", "trainer"} | {name for name in listed if name.endswith(".dist-info")}


def test_everything_is_compiled_and_nothing_is_compiled_again():
    script = (
        "import pathlib, sys, trainer.cli, matplotlib.pyplot, sklearn.metrics, boto3, onnxruntime;"
        "import tokenizers, PIL.Image;"
        "bad = [m.__name__ for m in list(sys.modules.values()) if (f := getattr(m, '__file__', None))"
        " and f.startswith('/opt/') and f.endswith('.py') and not pathlib.Path(m.__cached__).is_file()];"
        "print(bad, sys.dont_write_bytecode)"
    )
    assert in_image(f'{PYTHON} -c "{script}"').strip() == "[] True"


def test_torchrun_of_the_image_sees_the_package():
    text = in_image("torchrun --nproc-per-node 1 --no-python trainer config --json")
    assert json.loads(text.splitlines()[-1])["settings"]["task"] == "signs"
    assert "/opt/venv/bin" in in_image("head -1 $(command -v torchrun)")


def test_the_interpreter_that_it_has_satisfies_what_the_package_asks_for():
    found = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", IMAGE).stdout)
    assert found["Entrypoint"] == ["trainer", "launch"]
    assert found["User"] == "10001:0"
    assert found["Labels"]["org.opencontainers.image.title"] == "signs-trainer"
    assert found["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    check = "import importlib.metadata as m; print(m.version('signs-trainer'), m.version('torch'))"
    own, torch = in_image(f'{PYTHON} -c "{check}"').split()
    assert own == found["Labels"]["org.opencontainers.image.version"]
    assert torch.startswith("2.13.")
