"""Networks on their way to a device: measured latencies."""
