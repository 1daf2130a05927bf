"""The engine of the experiments: a recipe's options and stages, Snakemake, the comparison."""
