"""From a token store on disk to batches, every one a pure function of (seed, epoch, position)."""
