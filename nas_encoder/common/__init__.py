"""Shared by all packages here: problems, documents, seeding, provenance, resources."""
