"""Transformers that are exactly equivariant under D4, the rotations by 90° and reflections of the image."""
