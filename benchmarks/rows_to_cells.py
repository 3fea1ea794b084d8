"""Published rows back into a benchmark's folder, so that its tables and figures can be drawn anew or grow.

    python -m benchmarks.rows_to_cells benchmarks/results/quality.csv results
    python -m benchmarks.rows_to_cells benchmarks/results/quality.csv results --rename "default=512 wide" \
        --drop "random=256 wide"
    minari-distill benchmark --tables-only --out results --docs docs/results.md

A release whose preset has changed renames the label of the older rows; they keep their settings and their config.
Cells of the folder that stand in the CSV too are replaced by the published ones. Figure 2 and snapshots of
unfinished runs need the synsets of `results/runs`, which a CSV does not hold.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import pyarrow.csv

from minari_distill.benchmark.rows import SCHEMA


def main() -> None:
    """Write the cells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("out", type=Path, help="a benchmark's folder, new or not")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="labels")
    parser.add_argument("--drop", action="append", default=[], metavar="METHOD=LABEL", help="after renaming")
    args = parser.parse_args()
    labels = dict(pair.split("=", 1) for pair in args.rename)
    dropped = {tuple(pair.split("=", 1)) for pair in args.drop}

    types = pyarrow.csv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    cells: dict[str, dict[str, dict]] = defaultdict(dict)
    for row in pyarrow.csv.read_csv(args.csv, convert_options=types).to_pylist():
        row["label"] = labels.get(row["label"], row["label"])
        if (row["method"], row["label"]) not in dropped:
            key = "/".join(filter(None, (row["group"], row["protocol"], row["variant"])))  # as `Reading.key`
            cells[row.pop("cell")][key] = row
    (args.out / "cells").mkdir(parents=True, exist_ok=True)
    for name, rows in cells.items():
        (args.out / "cells" / f"{name}.json").write_text(
            json.dumps({"cell": None, "run": "", "rows": rows, "error": ""}, indent=1)
        )
    print(f"{sum(map(len, cells.values()))} rows of {len(cells)} cells in '{args.out / 'cells'}'.")


if __name__ == "__main__":
    main()
