"""What every room may use and none owns: problems, documents, seeding, provenance, resources."""
