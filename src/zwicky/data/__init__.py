"""Files become `Cutouts`: pixels that never change, and tables that do.

`contract` holds the type and the schema, `store` the Parquet directory, `tables` labels and splits,
`readers` one file format each, `ingest` the way from a folder to a store, `splits` who may learn from what,
`audit` what is suspicious about a data set.
"""
