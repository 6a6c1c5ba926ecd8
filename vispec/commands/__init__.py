"""Commands of `vispec`, a module each, and what they share. `vispec.cli` loads the one that is asked for."""
