"""Where the work runs: Ray, its settings, and deployment manifests. The only place that imports Ray."""
