"""What is asked of a cluster: pure functions that give manifests."""
