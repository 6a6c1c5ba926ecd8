"""Training of drafts: losses and the passes that they are taken from."""
