"""What an engine of ours is made of: which can run here, the weights it wants, its listener, its decoding."""
