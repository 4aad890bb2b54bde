"""Artifacts for others: turns in the formats that other tools load, and checkpoints with a card on the Hugging Face hub."""
