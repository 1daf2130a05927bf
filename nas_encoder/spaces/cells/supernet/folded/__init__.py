"""A source's mixed operations with custom backward passes, for CPUs."""
