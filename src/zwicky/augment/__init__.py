"""`Cutouts` become `Views`: normalisation, batched augmentation, multi-crop. No parameter is shared across a batch."""
