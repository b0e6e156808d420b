"""Two sets of videos compared with each other: FVD and FID. For `rushes evaluate`."""
