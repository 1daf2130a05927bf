"""The engine of the experiments: options and stages of a recipe, Snakemake, what is compared."""
