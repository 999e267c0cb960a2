"""The two pictures of the README: where a plan puts what, and what a pass of it is, as predicted.

python benchmarks/pictures.py --write docs/pictures
"""

from __future__ import annotations

from pathlib import Path

from common import parser

from flexplan import Plan, Problem, simulate, solve
from flexplan.drawing import Picture, draw_tiers
from flexplan.explanation import heaviest_placement, layer_places
from flexplan.files import write_whole

# of a picture that is a file: as a reader's page is light or dark
_COLOURS = "<style>svg{color:#333!important}@media(prefers-color-scheme:dark){svg{color:#ddd!important}}</style>"


def pictured() -> Plan:
    """OPT-30B on a desktop, whose memories together hold it with the disk's help only."""
    return solve(
        Problem.of("facebook/opt-30b", hardware="rtx4090", gpu_mem="16G", cpu_mem="48G", prompt_len=256, gen_len=4)
    )


def places(plan: Plan) -> Picture:
    """Layer by layer."""
    found = layer_places(heaviest_placement(plan))
    parts = [("weights", [(p.name, p.weights) for p in found]), ("KV cache", [(p.name, p.cache) for p in found])]
    return draw_tiers(parts, "Where OPT-30B lives in 16 GiB of GPU memory, 48 GiB of host memory and a disk")


def one_pass(plan: Plan) -> Picture:
    """A token of every prompt of a block, lane by lane."""
    return simulate(plan).plot(2)


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--write", type=Path, metavar="DIR", required=True)
    folder, plan = asked.parse_args().write, pictured()
    for name, picture in (("places", places(plan)), ("pass", one_pass(plan))):
        write_whole(folder / f"{name}.svg", picture.svg.replace("<style>", f"{_COLOURS}<style>", 1) + "\n")
        print(f"{name}.svg: {picture.title}")


if __name__ == "__main__":
    main()
