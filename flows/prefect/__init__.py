"""Everything that imports Prefect: deployments with their forms, `rushes serve`, and what a flow run shows."""
