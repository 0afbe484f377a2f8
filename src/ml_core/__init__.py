"""The names that the first users call Luthier by."""
