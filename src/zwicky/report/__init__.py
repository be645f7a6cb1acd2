"""The report: a benchmark's results as one self-contained HTML page. Nothing here runs a network."""
