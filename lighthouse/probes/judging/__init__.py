"""What answers are held against: patterns, paths, schemas, comparisons, in bounds of work."""
