"""Files become `Cutouts`: pixels that never change, and tables that do.

`cutouts` holds the type and the columns, `store` the directory, `labels` and `splits` the tables that change,
`ingest` the way from a folder to a store, with `readers` (one format each), `source`, `layout` and `bands` (files and
folders), `catalog` and `columns` (tables), `image_format` and `objects` (what is written); `audit` looks for what is
suspicious about a data set.
"""
