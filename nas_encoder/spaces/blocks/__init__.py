"""Encoders of residual blocks: Transformers, Conformers, Branchformers, FSMN and all between."""
