"""A source's mixed operations with hand-written backward passes, for CPUs."""
