"""Alignment of texts to speech with trained CTC models of ESPnet and NeMo, and how exact it is.

A long recording with its text becomes utterances (:func:`nas_encoder.alignment.align.align`), an
utterance becomes words and tokens, and :func:`nas_encoder.alignment.evaluation.evaluate` compares
their boundaries with true ones. ``nas-encoder align`` is the command.
"""
