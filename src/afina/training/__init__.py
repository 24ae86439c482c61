"""Fine-tuning: batches, losses, the loop and its checkpoints."""
