"""Names of the strategies that search by trials; imports nothing."""

STRATEGIES = ("random", "evolution", "hyperband", "nsga2", "tpe")
COSTS = ("latency_ms", "macs", "parameters")
ERROR = "error"
