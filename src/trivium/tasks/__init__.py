"""Coding tasks: the built-in ladder, benchmark formats, extraction of completions, checking by execution."""
