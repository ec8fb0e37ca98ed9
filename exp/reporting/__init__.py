"""Report of run folders: read them, compare them in tables, and write a terminal summary and an HTML page."""
