"""Genotypes: architectures as plain data. This folder imports no torch.

A genotype is one YAML document. :func:`load_genotype` takes the name of one that ships
with the package (:func:`list_genotypes`), a path, or an inline mapping.
"""

from nas_encoder.genotype.catalog import list_genotypes, load_genotype
from nas_encoder.genotype.genotype import SCHEMA_VERSION, Genotype

__all__ = ["SCHEMA_VERSION", "Genotype", "list_genotypes", "load_genotype"]
