//! Batches of samples from the store, with augmentation on the fly.
