"""Error rates with their uncertainty, and the table, text and picture of a comparison."""
