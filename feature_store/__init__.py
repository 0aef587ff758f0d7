"""What is stored: contracts, sources, Delta tables, quality, vocabulary, the loader and the simulator."""
