"""Fitting a model to a data set with the Hugging Face Trainer: what to train on and in which order, checkpoints, publishing."""
