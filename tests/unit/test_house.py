"""The shape of the code itself: direction of imports, sizes, annotations, and what must never stand in a file."""

import ast
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "trainer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]

MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60
HEAVY = {
    "boto3",
    "duckdb",
    "kubernetes",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "tensorboard",
    "wandb",
}
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


@cache
def _trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8"), filename=_id(path)) for path in SOURCES}


@cache
def _functions() -> list[tuple[Path, Function]]:
    return [(path, node) for path, tree in _trees().items() for node in ast.walk(tree) if isinstance(node, Function)]


def _texts(tree: ast.Module) -> Iterator[str]:
    """String constants that are not docstrings, and the names of imported modules."""
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose:
            yield node.value
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


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
    tree = _trees()[PACKAGE / "__init__.py"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_every_module_imports() -> None:
    # `__main__` is a door that runs when imported; other tests start it as a process.
    imported = [importlib.import_module(module) for module in MODULES if not module.endswith("__main__")]
    assert len(imported) == len(MODULES) - 1


def test_files_and_functions_fit_in_view() -> None:
    num_lines = {_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: lines for name, lines in num_lines.items() if lines > MAX_FILE_LINES}
    functions = {f"{_id(path)}:{f.name}": _code_lines(f) for path, f in _functions()}
    assert not {name: lines for name, lines in functions.items() if lines > MAX_FUNCTION_LINES}
    assert statistics.median(num_lines.values()) <= 200
    assert statistics.median(functions.values()) < 12


def test_every_argument_and_result_is_annotated() -> None:
    bare = []
    for path, function in _functions():
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        place = f"{_id(path)}:{function.name}"
        bare += [f"{place}({a.arg})" for a in named if a and not a.annotation and a.arg not in ("self", "cls")]
        bare += [f"{place} -> ?"] if function.returns is None else []
    assert not bare


def test_a_module_says_what_it_is_for() -> None:
    assert not [_id(path) for path, tree in _trees().items() if not ast.get_docstring(tree)]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """At module level they would slow every start, and an extra that is not installed would break the import."""
    found = []
    for path, tree in _trees().items():
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{_id(path)}: {name}" for name in names if name.split(".")[0] in HEAVY]
    assert not found


def test_the_engine_names_no_task() -> None:
    """Neither as a text nor by an import; the distribution's own name does not count."""
    word = re.compile(rf"\b(?:{'|'.join(TASK_NAMES)})\b(?!-trainer)")
    found = []
    for path, tree in _trees().items():
        if path.is_relative_to(PACKAGE / "engine"):
            found += [f"{_id(path)}: {text!r}" for text in _texts(tree) if word.search(text)]
    assert not found


def test_nothing_is_left_for_later() -> None:
    found = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        # A sleep is no synchronisation: wait on an event or a condition.
        words = re.findall(r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError)\b|\btime\.sleep\(", text)
        found += [f"{_id(path)}: {word}" for word in words]
    assert not found


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in _tracked():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{_id(path)}: {word}" for word in FORBIDDEN if word in text]
        if path.suffix == ".py" and path.is_relative_to(PACKAGE) and "/t" + "mp/" in text:
            found.append(f"{_id(path)}: a temporary folder by name")
    assert not found


def test_the_lock_has_a_hash_for_everything_and_no_torch() -> None:
    for lock in (ROOT / "requirements.lock", *ROOT.glob("tests/*/requirements.txt"), *ROOT.glob("image/*.lock")):
        text = re.sub(r"\\\n\s*", "", lock.read_text(encoding="utf-8"))
        pins = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert pins
        assert not [pin for pin in pins if "--hash=sha256:" not in pin or "==" not in pin]
        assert not [pin for pin in pins if re.match(r"(torch|triton|nvidia|cuda)\b", pin)]
