"""What each DAG file adds to a bare `import airflow.sdk`: `python -m benchmarks.dag_import`.

Each figure is the best of several fresh interpreters; the limit is 0.3 s a file. The wall clock is shown; the limit is
held against processor time, which is the same for an import on a quiet machine and does not grow on a busy one.
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
wall, processor = time.perf_counter(), time.process_time()
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), {"__name__": "dag_file"})
print(time.perf_counter() - wall, time.process_time() - processor)
"""


def seconds(file: Path) -> tuple[float, float]:
    """Seconds one DAG file takes to import after `airflow.sdk`: by the wall clock, and of processor time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    figures = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", _PROGRAM, str(file)]
        answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        wall, processor = answer.stdout.splitlines()[-1].split()
        figures.append((float(wall), float(processor)))
    return min(figures)


def main() -> int:
    """Print a line a file; status 1 where one is over the limit."""
    over = False
    for file in sorted((ROOT / "dags").glob("*.py")):
        wall, processor = seconds(file)
        over = over or processor > LIMIT_SECONDS
        print(f"{file.name:<28} {wall:.3f} s, processor {processor:.3f} s of {LIMIT_SECONDS} s")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
