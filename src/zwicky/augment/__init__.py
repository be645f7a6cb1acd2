"""From `Cutouts` to `Views`: normalisation and batched augmentation; no parameter is shared across a batch."""
