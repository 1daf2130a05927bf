"""Training with CTC: devices, loaders, early stopping."""
