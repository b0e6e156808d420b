"""Everything that imports Ray: the executor, its pools of workers, and groups that train together."""
