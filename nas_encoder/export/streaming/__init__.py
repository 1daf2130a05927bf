"""Exported models that stream: the graph of a step, its check, and programs that run it live."""
