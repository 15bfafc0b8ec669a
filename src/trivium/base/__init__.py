"""What every layer stands on: config, errors, logging, seeding, files, fingerprints."""
