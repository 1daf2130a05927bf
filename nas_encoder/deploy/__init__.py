"""Deployment: measured latencies, and the engines that run exports."""
