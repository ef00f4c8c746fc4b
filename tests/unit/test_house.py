"""The shape of the code itself: direction of imports, sizes, annotations, and what must never stand in a file."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "trainer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]

MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60
HEAVY = {"boto3", "kubernetes", "matplotlib", "onnx", "onnxruntime", "onnxscript", "sklearn", "tensorboard", "wandb"}
TASK_NAMES = ("signs", "translation", "hierarchy")
# Joined here so that this file does not hold what it forbids.
FORBIDDEN = [
    "".join(parts)
    for parts in (
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/Us", "ers/"),
        ("/opt/", "wheels"),
        ("/opt/", "pypi"),
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("download.", "pytorch.org"),
        ("registry.", "npmjs.org"),
    )
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=_id(path))


def _functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(_tree(path)) if isinstance(node, Function))


def _code_lines(function: Function) -> int:
    """Lines from `def` to the end without the docstring: a long explanation is no long function."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    is_docstring = ast.get_docstring(function) is not None
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0)


def _tracked() -> list[Path]:
    """Files of the project: what git tracks or would, or everything outside of hidden folders where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".venv") for part in path.parts)]
    return [path for path in paths if path.is_file()]


def test_imports_point_down_the_house() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_itself_imports_nothing() -> None:
    body = _tree(PACKAGE / "__init__.py").body
    assert not [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str) -> None:
    if module.endswith("__main__"):
        pytest.skip("a door that runs when imported; tests start it as a process")
    importlib.import_module(module)


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_files_and_functions_fit_in_view(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES, f"{num_lines} lines; a file is about one thing"
    too_long = {f.name: _code_lines(f) for f in _functions(path) if _code_lines(f) > MAX_FUNCTION_LINES}
    assert not too_long, f"functions over {MAX_FUNCTION_LINES} lines: {too_long}"


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_every_argument_and_result_is_annotated(path: Path) -> None:
    bare = []
    for function in _functions(path):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        bare += [f"{function.name}({a.arg})" for a in named if a and not a.annotation and a.arg not in ("self", "cls")]
        bare += [f"{function.name} -> ?"] if function.returns is None else []
    assert not bare


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), "the module docstring is missing"


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    """At module level they would slow every start, and an extra that is not installed would break the import."""
    found = set()
    for node in _tree(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert not found & HEAVY


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").rglob("*.py")), ids=_id)
def test_the_engine_names_no_task(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("warning signs", "").replace("Warning signs", "")
    assert not re.findall(rf"\b(?:{'|'.join(TASK_NAMES)})\b", text)


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError)\b", text)
    assert not re.findall(r"\btime\.sleep\(", text), "a sleep is no synchronisation; wait on an event or a condition"


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in _tracked():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{_id(path)}: {word}" for word in FORBIDDEN if word in text]
        if path.suffix == ".py" and path.is_relative_to(PACKAGE) and "/t" + "mp/" in text:
            found.append(f"{_id(path)}: a temporary folder by name")
    assert not found


def test_the_lock_has_a_hash_for_everything_and_no_torch() -> None:
    for lock in (ROOT / "requirements.lock", ROOT / "tests" / "bench" / "requirements.txt"):
        text = re.sub(r"\\\n\s*", "", lock.read_text(encoding="utf-8"))
        pins = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert pins
        assert not [pin for pin in pins if "--hash=sha256:" not in pin or "==" not in pin]
        assert not [pin for pin in pins if re.match(r"(torch|triton|nvidia|cuda)\b", pin)]
