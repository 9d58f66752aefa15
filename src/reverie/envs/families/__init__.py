"""One file per family of environments; `..family` says what is in it."""
