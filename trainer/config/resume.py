"""`--resume PATH`, as other trainers have it: the folder of a run goes on, a file of weights begins a new run."""

from pathlib import Path
from typing import Any

WORDS = ("auto", "required", "never")
_WEIGHTS = (".pt", ".pth", ".safetensors")
_RUN_FILE = "run.json"


def without_path(run: dict[str, Any]) -> dict[str, Any]:
    """Settings of `run` where a path in `resume` is said by store and name, or by `init_from`. Raises ValueError."""
    path = run.get("resume")
    if not isinstance(path, str) or path in WORDS:
        return run
    if path.endswith(_WEIGHTS):
        said = {"resume": "auto", "init_from": path}
    else:
        above, _, name = path.rstrip("/").rpartition("/")
        is_run = "://" in above or (Path(path) / _RUN_FILE).is_file()
        if not is_run or not name:
            raise ValueError(
                f"run.resume is {path}, which is neither a run (its folder holds {_RUN_FILE}) nor a file of weights "
                f"({', '.join(_WEIGHTS)}), nor one of {', '.join(WORDS)}"
            )
        said = {"resume": "required", "store": above if "://" in above else f"file://{above or '.'}", "name": name}
    for setting, value in said.items():
        if setting != "resume" and run.get(setting) not in (None, value):
            raise ValueError(f"run.resume is {path}, but run.{setting} is {run[setting]}: keep one of them")
    return run | said
