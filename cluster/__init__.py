"""Where work runs: connecting to Ray, resources, storage. Never learns what it runs."""
