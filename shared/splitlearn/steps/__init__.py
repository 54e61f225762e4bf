"""What runs one step: the rows of many sessions through a part's layers, and where they keep keys and values."""
