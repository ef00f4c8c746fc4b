"""`python -m tests.bench [name ...]`: without a name the usual ones: loop, balance, signs, translation, ...."""

import importlib
import os
import platform
import sys

USUAL = ("loop", "balance", "signs", "translation", "checkpoint", "s3", "startup", "metrics")
ALL = (*USUAL, "scale", "dashboards", "anuran")


def main(names: list[str]) -> int:
    """Run the named benchmarks one after the other; 2 for a name that does not exist."""
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(ALL)}", file=sys.stderr)
        return 2
    import torch

    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, {platform.machine()}"
    )
    for name in names or USUAL:
        importlib.import_module(f"tests.bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
