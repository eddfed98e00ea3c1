"""Reports on finished runs: read them, group them, compare them, and write text, tables, pictures and one page."""
