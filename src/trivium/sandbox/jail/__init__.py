"""What runs inside a worker: standard library only, loaded by a fresh interpreter that sees no other packages."""
