import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import trainer
from trainer.checkpoint import crash


def names_in_the_package():
    for path in Path(trainer.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None)) == "point":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: a point's name is a literal"
                yield node.args[0].value


def test_every_point_is_declared_and_every_declared_point_exists():
    assert set(names_in_the_package()) == crash.POINTS


@pytest.fixture
def disarmed():
    yield
    crash.arm(None)


def test_an_unarmed_point_does_nothing(disarmed):
    assert all(crash.point(name) is None for name in crash.POINTS)


@pytest.mark.parametrize("text", ["nowhere", "before_copy:0", "before_copy:x", "before_copy:-1"])
def test_a_wrong_name_or_count_is_refused_with_the_right_ones(text, disarmed):
    with pytest.raises(ValueError, match=r"TRAINER_CRASH_AT=.*after_copy"):
        crash.arm(text)


def test_the_counted_time_kills(disarmed):
    child = os.fork()
    if child == 0:
        crash.arm("mid_write:3")
        for _ in range(2):
            crash.point("mid_write")
            crash.point("after_data")
        os.write(2, b"")
        crash.point("mid_write")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_the_environment_arms():
    code = "from trainer.checkpoint.crash import point; point('after_copy'); point('before_copy')"
    root = str(Path(trainer.__path__[0]).parent)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TRAINER_CRASH_AT": "before_copy"}, cwd=root)
    assert done.returncode == -signal.SIGKILL
