"""Benchmarks of two states of this repository against each other, old and new in turns in one run.

Each tree runs its own benchmarks from its own files and kernels in processes of their own, in the order old, new, new,
old, ...; packages and folders may have other names in each. Figures are told apart by their names. What a tree needs is
kept in build/trees: remove it to start anew.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.contenders import ROOT
from tests.benchmarks.figures import Figure
from tests.benchmarks.old_and_new import OldAndNew, pair_up, table
from tests.benchmarks.trees import Tree, tree_of

# what each is asked for beside its sizes; many_users repeats its rounds here, and each of its processes takes minutes
BENCHMARKS: Mapping[str, Sequence[str]] = {
    "one_step": (),
    "layers": (),
    "engine": ("--rounds", "3"),
    "many_users": ("--rounds", "2", "--only", "one", "prefill", "many"),
}


@dataclass(frozen=True)
class Pace:
    """How much is run: of `rounds` each has every tree once; `timeout` seconds for each process."""

    rounds: int
    timeout: float
    quick: bool


def measure(old: Tree, new: Tree, benchmark: str, pace: Pace) -> tuple[list[list[Figure]], list[list[Figure]]]:
    """The figures of each round, of the old tree and of the new one."""
    flags = [*BENCHMARKS[benchmark], *(["--quick"] if pace.quick else [])]
    found: dict[str, list[list[Figure]]] = {"old": [], "new": []}
    sides = [("old", old), ("new", new)]
    for number in range(pace.rounds):
        for name, tree in sides if number % 2 == 0 else reversed(sides):
            began = time.perf_counter()
            found[name].append(list(tree.run(benchmark, flags, pace.timeout).figures))
            print(f"{benchmark}, round {number + 1}, {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return found["old"], found["new"]


def compare(old: Tree, new: Tree, benchmark: str, pace: Pace) -> tuple[list[OldAndNew], bool]:
    """Prints what was found. The rows, and whether the new tree has all figures of the old one."""
    rows, only_old, only_new = pair_up(*measure(old, new, benchmark, pace))
    print(f"\n## {benchmark}\n\n{table(rows)}", flush=True)
    for which, names in (("old", only_old), ("new", only_new)):
        if names:
            print(f"only in the {which} tree: {'; '.join(names)}\n", flush=True)
    return rows, not only_old


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="REF", help="a commit, or a folder that holds such a tree")
    parser.add_argument("--after", default=str(ROOT), metavar="REF", help="the same; default: this working tree")
    parser.add_argument("--what", default=",".join(BENCHMARKS), help="with commas between; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=4, help="processes of each tree and benchmark (default 4)")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one process (default 1200)")
    parser.add_argument("--quick", action="store_true", help="each benchmark's small sizes")
    parser.add_argument(
        "--least", type=float, help="exit with 1 where the new tree gives less of what the old one gave"
    )
    parser.add_argument(
        "--lend-benchmarks", action="store_true", help="put this tree's benchmarks into those that have no --json"
    )
    options = parser.parse_args()
    chosen = options.what.split(",")
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    old = tree_of(options.before, lend_benchmarks=options.lend_benchmarks)
    # this working tree has them
    lends = options.lend_benchmarks and options.after != str(ROOT)
    new, pace = tree_of(options.after, lend_benchmarks=lends), Pace(options.rounds, options.timeout, options.quick)
    print(f"old: {old.label}; new: {new.label}; {pace.rounds} processes of each in turns, {os.cpu_count()} cores")
    found = [compare(old, new, name, pace) for name in chosen]
    if options.least is not None:
        bad = [row.name for rows, _ in found for row in rows if not row.gives(options.least)]
        if bad:
            raise SystemExit(f"less than {options.least:g} of what it gave: {'; '.join(bad)}")
        if not all(is_whole for _, is_whole in found):
            raise SystemExit("the new tree lacks figures of the old one")


if __name__ == "__main__":
    main()
