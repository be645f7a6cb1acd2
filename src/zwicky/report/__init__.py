"""The report: a benchmark's results as one self-contained HTML page.

`data` reads the run, `verdict` states the conclusion, `tables` and `figures` build what the page shows, `page` renders
the templates. Nothing here runs a network.
"""
