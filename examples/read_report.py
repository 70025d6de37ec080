"""A report's rows are a plain CSV: pandas answers what its pages don't."""

from pathlib import Path

import pandas as pd

REPORT = Path(__file__).parents[1] / "reports" / "amd-epyc-2-threads" / "quick.csv"

rows = pd.read_csv(REPORT)
ok = rows[rows["status"] == "ok"]
training = ok[(ok["mode"] == "training") & (ok["dtype"] == "float32")]

# Which contender is the fastest, by cell and hidden size, where one batch and length are held?
shapes = ["cell", "I", "H", "B", "T", "layers", "bidirectional"]
fastest = training.loc[training.groupby(shapes)["p50"].idxmin()]
print(fastest[["cell", "H", "B", "T", "contender", "us_per_step", "tokens_per_second"]].to_string(index=False))

# And what does the eager loop cost beside it?
slowest = training.groupby(shapes)["p50"].max() / training.groupby(shapes)["p50"].min()
print(f"between the fastest and the slowest lies a factor of {slowest.min():.1f} to {slowest.max():.1f}")
