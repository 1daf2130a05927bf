"""Deployment: measured latencies."""
