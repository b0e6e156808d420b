"""What all flows stand on: configs, identity, the ledger, planning, running, media. No torch, no Ray, no Prefect."""
