"""The configurations of searches, trials and tables."""
