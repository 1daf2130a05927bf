"""The cells of NAS-Bench-ASR (Mehrotra et al. 2021)."""
