"""Numbers from arrays: classification, calibration, regression, embeddings, bootstrap intervals."""
