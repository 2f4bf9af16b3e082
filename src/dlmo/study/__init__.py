"""Studies: recipe text -> stages -> store, so that each stage is paid once."""
