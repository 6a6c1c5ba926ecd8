"""Drafts: config, model, checkpoints, and the drafter that the cycle runs."""
