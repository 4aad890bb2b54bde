"""The update: batches of turns, guidance, demonstrations, losses, the optimiser, splitting weights over processes."""
