"""The method's formulas as pure tensor functions: no files, no models, no config."""
