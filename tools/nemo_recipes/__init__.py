"""Configurations and programs of the NeMo recipes of AISHELL, LibriSpeech and TIMIT."""
