"""Programs that run inside pods, and the archives they speak: standard library only."""
