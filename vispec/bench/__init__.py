"""`vispec bench`: a target with and without its draft, and its peers, on the same prompts in the same run."""
