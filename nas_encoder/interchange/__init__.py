"""One trained model, two toolkits: reads and writes the checkpoints of ESPnet and NeMo.

Nothing here imports a toolkit. Checkpoints are read into, and written from,
:class:`~nas_encoder.interchange.model.Model`, which holds the encoder, the CTC output layer and
the feature settings. :mod:`nas_encoder.interchange.features` offers each toolkit's feature
extraction to the other.
"""
