"""Preference data: judgements in a store, files in and out, judges, and groups to train a reward model on."""
