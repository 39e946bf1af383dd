"""What each DAG file adds to a bare `import airflow.sdk`: `python -m benchmarks.dag_import`.

Each figure is the fastest of several fresh interpreters; the limit is 0.3 s a file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
LIMIT_SECONDS = 0.3
_PROGRAM = """
import sys, time
import airflow.sdk
started = time.perf_counter()
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), {"__name__": "dag_file"})
print(time.perf_counter() - started)
"""


def seconds(file: Path) -> float:
    """Seconds one DAG file takes to import after `airflow.sdk`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    figures = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", _PROGRAM, str(file)]
        answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        figures.append(float(answer.stdout.splitlines()[-1]))
    return min(figures)


def main() -> int:
    """Print a line a file; status 1 where one is over the limit."""
    over = False
    for file in sorted((ROOT / "dags").glob("*.py")):
        figure = seconds(file)
        over = over or figure > LIMIT_SECONDS
        print(f"{file.name:<28} {figure:.3f} s of {LIMIT_SECONDS} s")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
