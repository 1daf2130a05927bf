"""What a run gave, as a page: texts, pictures, findings."""
