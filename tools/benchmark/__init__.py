"""The benchmark table of a corpus: what recipes and ESPnet's own run.sh trained, side by side."""
