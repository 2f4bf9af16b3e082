"""Reports: terminal tables and progress, one self-contained HTML page, the model card."""
