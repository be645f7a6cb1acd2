"""Transformers that are exactly equivariant under D4, the turns and mirrors of a square."""
