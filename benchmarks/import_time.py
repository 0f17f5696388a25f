"""What importing Rigging costs beside importing pydantic: CPU time of fresh interpreters.

    nox -s bench

Both are lazy: `import pydantic` alone loads little, and so does `import rigging`. So two
ratios are printed, of the imports alone and of the first use. Rounds alternate between
the programs, and medians are compared, because machines are shared and noisy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 9
PROGRAMS = {
    "python": "pass",
    "import pydantic": "import pydantic",
    "import rigging": "import rigging",
    "pydantic, a model": "import pydantic\nclass M(pydantic.BaseModel):\n    x: int = 0",
    "rigging, a generator": "import rigging\nclass G(rigging.Generator):\n    x: int = 0",
}


def cpu_seconds(program: str, cache: str) -> float:
    """Run a program in a fresh interpreter; return its CPU time, user and system."""
    # A cache of compiled modules of its own: compiling is no part of an import.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {program!r}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print medians and ratios."""
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as cache:
        for program in PROGRAMS.values():
            cpu_seconds(program, cache)  # compiles
        for _ in range(ROUNDS):
            for name, program in PROGRAMS.items():
                times[name].append(cpu_seconds(program, cache))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'CPU time, median of ' + str(ROUNDS):26} ms")
    for name, seconds in medians.items():
        print(f"{name:24} {seconds * 1000:6.1f}")
    alone = medians["import rigging"] / medians["import pydantic"]
    used = medians["rigging, a generator"] / medians["pydantic, a model"]
    print(f"import rigging / import pydantic            {alone:.2f}")
    print(f"first generator / first pydantic model      {used:.2f}")


if __name__ == "__main__":
    main()
