"""CPU seconds of a command's first start, which compiles, and of its second, which finds what was compiled.

    python benchmarks/second_start.py                                 # generate, on the built-in model
    python benchmarks/second_start.py -- reason "4 9 10 13" --task game24

User and system time of the whole process, which a busy machine changes less than wall time. First and second starts
take turns, each pair in a new folder. No file of the system is dropped from memory before.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

COMMAND = ["generate", "Explain the concept of machine learning:", "-n", "40"]


def cpu_seconds(command: list[str], folder: str) -> float:
    """What one start takes."""
    environment = os.environ | {"VISHWAMAI_COMPILE_CACHE": folder}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "vishwamai", *command], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"vishwamai {' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("command", nargs="*", default=COMMAND, help="a verb and what it takes, after --")
    args = parser.parse_args()
    pairs = []
    for _ in range(args.pairs):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append((cpu_seconds(args.command, folder), cpu_seconds(args.command, folder)))
            print("first {:6.2f} s   second {:6.2f} s".format(*pairs[-1]), flush=True)
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"median {first:6.2f} s   second {second:6.2f} s   share {second / first:.2f}")


if __name__ == "__main__":
    main()
