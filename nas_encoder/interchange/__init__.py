"""One trained model, two toolkits: reads and writes the checkpoints of ESPnet and of NeMo.

Nothing here imports a toolkit. A checkpoint is read into a :class:`~nas_encoder.interchange.model.
Model`, which knows the encoder, the CTC output layer and how the features are computed, and
written from it. :mod:`nas_encoder.interchange.features` has the feature extraction of each toolkit
for use in the other.
"""
