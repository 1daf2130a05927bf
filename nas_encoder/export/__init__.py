"""Trained models outside the toolkits: ONNX files, checked against torch, and what runs them.

:func:`~nas_encoder.export.export.export_model` reads a model of either toolkit and writes a folder;
:mod:`nas_encoder.export.runtime` opens it again, whoever wrote it. A base install imports this
room; onnx and onnxruntime are imported by what needs them.
"""
