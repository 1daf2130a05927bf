"""ESPnet's and NeMo's own encoders, read as points of the space: options and weights.

No toolkit is imported: the options are those that its configurations hold, the weights those of its
checkpoints. What the space cannot express is refused by the option's name.
"""
