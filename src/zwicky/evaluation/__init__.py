"""Runs and labels become result tables: frozen features, probes, baselines, the label-efficiency benchmark."""
