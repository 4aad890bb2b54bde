"""Any artifact in the terminal. It prints what `analysis` and `store` read; nothing is computed here."""
