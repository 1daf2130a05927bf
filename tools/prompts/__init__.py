"""Fetches the recorded prompts that Debian packages, and counts what is used of them."""
