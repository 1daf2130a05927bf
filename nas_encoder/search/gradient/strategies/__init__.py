"""The gradient strategies, one file each."""
